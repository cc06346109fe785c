// Package dashboard is the page on which people see and steer their services
// with a browser, and the door in front of it.
//
// What is always true: the page is one for everybody and tells nothing by
// itself; what it shows it asks of the API, with a cookie that whoever showed
// the right word at the door was given. The cookie opens the few calls of the
// API that the page makes, and no other. No page of another origin can have
// anything done here, or read an answer. Nothing is fetched from anywhere else,
// and no word or cookie is logged.
package dashboard

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"regexp"
	"strings"
	"sync/atomic"
)

//go:embed page
var files embed.FS

// policy lets the page run its own script and ask its own origin, and nothing
// else: no inline script or style, no frame around it (W3C CSP 3).
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// wordBytes is more than any word has that is shown at the door.
const wordBytes = 4 << 10

// Door says who may use the page.
type Door struct {
	word   [sha256.Size]byte
	once   bool        // the word opens it one time
	used   atomic.Bool // it has
	key    string      // the cookie's value
	cookie string      // its name: every port of a host is sent the same ones
	assets map[string]asset
}

// asset is a file of the page.
type asset struct {
	kind string
	body []byte
}

// Opening returns a door that word opens, as often as it is shown in the page's
// own form.
func Opening(word string) *Door { return newDoor(word, "form") }

// OpeningOnce returns a door, and the word that opens it one time, as part of
// the page's address.
func OpeningOnce() (d *Door, word string) {
	word = rand.Text()
	d = newDoor(word, "address")
	d.once = true
	return d, word
}

// newDoor returns a door whose page says how to get in.
func newDoor(word, entry string) *Door {
	d := &Door{word: sha256.Sum256([]byte(word)), key: rand.Text(), cookie: "tiproxy_" + rand.Text()[:8], assets: make(map[string]asset)}
	// Neither can fail: the files are part of the binary.
	list, _ := fs.ReadDir(files, "page")
	for _, f := range list {
		body, _ := files.ReadFile("page/" + f.Name())
		body = bytes.ReplaceAll(body, []byte("{{entry}}"), []byte(entry))
		d.assets["/"+f.Name()] = asset{kind: kinds[path.Ext(f.Name())], body: body}
	}
	d.assets["/"] = d.assets["/index.html"]
	return d
}

// Serves reports whether ServeHTTP has an answer for a path.
func (d *Door) Serves(path string) bool {
	_, known := d.assets[path]
	return known || path == "/login" || path == "/logout"
}

// kinds are the types of the page's files: the machine's own table may have others.
var kinds = map[string]string{
	".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}

// calls are what the page asks of the API.
var calls = regexp.MustCompile(`^(?:GET /api/v1/(?:services|groups|version|events|services/[^/]+|services/[^/]+/(?:connections|output))|POST /api/v1/services/[^/]+/(?:start|stop|hold|release))$`)

// Admits reports whether r is a call of the API that the page makes, by
// somebody who was let in.
func (d *Door) Admits(r *http.Request) bool {
	return d.inside(r) && calls.MatchString(r.Method+" "+r.URL.EscapedPath())
}

// inside reports whether r has the cookie, and is no other page's. Sec-Fetch-Site
// is missing where a browser is too old for it; the cookie is SameSite.
func (d *Door) inside(r *http.Request) bool {
	if from := r.Header.Get("Sec-Fetch-Site"); from != "" && from != "same-origin" && from != "none" {
		return false
	}
	c, err := r.Cookie(d.cookie)
	return err == nil && subtle.ConstantTimeCompare([]byte(c.Value), []byte(d.key)) == 1
}

// ServeHTTP answers with the page, and lets people in and out. Who may not
// reach the door at all is decided before.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	secure(w.Header())
	file, known := d.assets[r.URL.Path]
	reading := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch {
	case known && reading && d.once && r.URL.Path == "/" && r.URL.Query().Has("token"):
		d.enterByAddress(w, r)
	case known && reading:
		w.Header().Set("Content-Type", file.kind)
		// It fails when the browser has gone.
		_, _ = w.Write(file.body)
	case known:
		w.Header().Set("Allow", "GET, HEAD")
		say(w, http.StatusMethodNotAllowed, "This is only to be read.")
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", "POST")
		say(w, http.StatusMethodNotAllowed, "Use the form on the page.")
	case r.URL.Path == "/login":
		d.enterByForm(w, r)
	case r.URL.Path == "/logout":
		http.SetCookie(w, d.baked("", -1))
		http.Redirect(w, r, "/", http.StatusSeeOther)
	default:
		say(w, http.StatusNotFound, "There is nothing here.")
	}
}

// secure sets what a browser must know about everything that comes from here.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cache-Control", "no-store")
}

// enterByAddress takes the word that is part of the address, once. What fetches
// the address without showing it to anybody does not use it up.
func (d *Door) enterByAddress(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodHead, strings.Contains(r.Header.Get("Sec-Purpose"), "prefetch"):
		say(w, http.StatusServiceUnavailable, "Open this address in a browser.")
	case !d.opens(r.URL.Query().Get("token")), d.used.Swap(true):
		say(w, http.StatusForbidden, "This address works once, and was used already or is an older one.\nRun the command again for a new one: tiproxy dashboard")
	default:
		d.letIn(w, r)
	}
}

// enterByForm takes the word that was written into the page's form.
func (d *Door) enterByForm(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, wordBytes)
	if d.once || !d.opens(strings.TrimSpace(r.PostFormValue("token"))) {
		http.Redirect(w, r, "/?wrong", http.StatusSeeOther)
		return
	}
	d.letIn(w, r)
}

// opens reports whether word is the right one. How long that takes does not
// depend on how much of it is right.
func (d *Door) opens(word string) bool {
	given := sha256.Sum256([]byte(word))
	return subtle.ConstantTimeCompare(given[:], d.word[:]) == 1
}

// letIn gives the cookie, and leads on to an address without the word.
func (d *Door) letIn(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, d.baked(d.key, 0))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (d *Door) baked(value string, age int) *http.Cookie {
	// Not Secure: this is a plain connection to the machine itself, or through a
	// tunnel.
	return &http.Cookie{Name: d.cookie, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: age}
}

// say answers in words, for a person.
func say(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// refuse answers a call of the API that is not let through, as the API would.
func refuse(w http.ResponseWriter, status int, text, hint string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(struct {
		Error string `json:"error"`
		Hint  string `json:"hint"`
	}{text, hint})
}
