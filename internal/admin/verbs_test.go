package admin_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"tiproxy/internal/admin"
)

func TestVerbs_AreHandedOn(t *testing.T) {
	w := newWorld("db")
	at, _ := w.onSocket(t)
	c := client(t, at)
	for _, path := range []string{"start", "hold?for=1h30m", "release", "stop"} {
		var one admin.Service
		if err := c.Post(briefly(t), "/api/v1/services/db/"+path, &one); err != nil || one.Name != "db" {
			t.Errorf("%s: %+v, %v", path, one, err)
		}
	}
	if want := []string{"start db", "hold db 1h30m0s", "release db", "stop db"}; !slices.Equal(w.orders, want) {
		t.Errorf("got %q", w.orders)
	}
}

func TestVerbs_WrongOnesSayWhatWouldBeRight(t *testing.T) {
	w := newWorld("db", "web")
	at, _ := w.onSocket(t)
	c := client(t, at)
	for path, want := range map[string]struct {
		status int
		says   string
	}{
		"/api/v1/services/dbb/start":        {404, `there is no service "dbb": there are db, web`},
		"/api/v1/services/db/exec":          {404, "openapi.yaml"},
		"/api/v1/services/db/hold":          {400, "for is missing: write for how long, such as ?for=2h"},
		"/api/v1/services/db/hold?for=2":    {400, "with its unit"},
		"/api/v1/services/db/hold?for=0s":   {400, "more than 0"},
		"/api/v1/services":                  {405, "POST is not for this: use GET, HEAD"},
		"/api/v1/services/db%2Fstop":        {405, "POST is not for this"},
		"/api/v1/services/%0a/start":        {404, `"\n"`},
		"/api/v1/services/db/start/further": {404, "nothing at"},
	} {
		err := c.Post(briefly(t), path, nil)
		var p *admin.Problem
		if !errors.As(err, &p) || p.Status != want.status || !strings.Contains(p.Error(), want.says) {
			t.Errorf("%s: %v, want %d and %q", path, err, want.status, want.says)
		}
	}
	if len(w.orders) > 0 {
		t.Errorf("carried out: %q", w.orders)
	}
}

// An order takes as long as it takes, however short a question may be.
func TestVerbs_MayTakeLongerThanAQuestion(t *testing.T) {
	t.Parallel()
	w := newWorld("db")
	w.do = func(ctx context.Context, _ string, _ admin.Order) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(6 * time.Second):
			return nil
		}
	}
	at, _ := w.onSocket(t)
	if err := client(t, at).Post(briefly(t), "/api/v1/services/db/stop", nil); err != nil {
		t.Error(err)
	}
}

// Close does not wait for an order's end, nor for somebody who has left.
func TestVerbs_CloseEndsTheWait(t *testing.T) {
	w := newWorld("db")
	begun, ended := make(chan struct{}, 2), make(chan error, 2)
	w.do = func(ctx context.Context, _ string, _ admin.Order) error {
		begun <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}
	at, s := w.onSocket(t)
	leaving, leave := context.WithCancel(briefly(t))
	left := make(chan error, 1)
	go func() { left <- client(t, at).Post(leaving, "/api/v1/services/db/start", nil) }()
	<-begun
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	<-ended
	asked := make(chan error, 1)
	go func() { asked <- client(t, at).Post(briefly(t), "/api/v1/services/db/start", nil) }()
	<-begun
	s.Close()
	if len(ended) != 1 {
		t.Error("Close has not waited for who was being answered")
	}
	if err := <-asked; err == nil {
		t.Error("there was an answer")
	}
}

func TestProblem_OtherAnswersAreUnderstood(t *testing.T) {
	w := newWorld("db")
	w.do = func(context.Context, string, admin.Order) error { return errors.New("out of luck") }
	at, _ := w.onSocket(t)
	var p *admin.Problem
	if err := client(t, at).Post(briefly(t), "/api/v1/services/db/start", nil); !errors.As(err, &p) || p.Status != http.StatusInternalServerError || p.Text != "out of luck" {
		t.Errorf("got %v", err)
	}
}

func FuzzHoldTime(f *testing.F) {
	for _, query := range []string{"for=2h", "for=", "for=1h&for=2h", "for=%zz", "for=9999999999h", "for=-1s", "for=1e3s", "for=+1h", ";", "for=NaNs"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, _ := url.ParseQuery(query)
		d, p := admin.HoldTime(values)
		if p == nil && (d <= 0 || d > 8760*time.Hour) {
			t.Errorf("%q: %v", query, d)
		}
		if p != nil && (p.Status != http.StatusBadRequest || p.Text == "" || p.Hint == "" || len(p.Error()) > 300) {
			t.Errorf("%q: %+v", query, p)
		}
	})
}
