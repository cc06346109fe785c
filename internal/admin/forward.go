package admin

import (
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
)

// ServeHTTP passes a question on as the client's own, and the answer back, as it
// comes. Of the question's header only what the API knows is passed on: who asks
// has been judged by whoever calls this.
func (c *Client) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	proxy := httputil.ReverseProxy{
		Rewrite:   c.rewrite,
		Transport: c.http,
		ErrorLog:  log.New(io.Discard, "", 0), // the browser has gone, or is told below
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			writeProblem(w, &Problem{Status: http.StatusBadGateway, Text: c.explain(err).Error()})
		},
	}
	proxy.ServeHTTP(w, r)
}

// rewrite makes a question the client's own.
func (c *Client) rewrite(p *httputil.ProxyRequest) {
	p.SetURL(&url.URL{Scheme: "http", Host: c.host()})
	p.Out.Host = ""
	p.Out.Header = make(http.Header)
	if last := p.In.Header.Get("Last-Event-ID"); last != "" {
		p.Out.Header.Set("Last-Event-ID", last)
	}
	if c.at.Token != "" {
		p.Out.Header.Set("Authorization", "Bearer "+c.at.Token)
	}
}
