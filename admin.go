package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"tiproxy/internal/admin"
	"tiproxy/internal/config"
	"tiproxy/internal/dashboard"
)

// errStopping is the answer to a question about health while the program ends.
var errStopping = errors.New("stopping")

// tokenMost is how long a token's file can be, in bytes.
const tokenMost = 4 << 10

// adminPlace is where the program is asked about itself, and steered.
type adminPlace struct {
	at    config.Addr // no Network = nowhere
	token string      // asked for on TCP
	usual bool        // nobody has written it: where it cannot be had, tiproxy goes on without
}

// target is how the place is asked.
func (a adminPlace) target() admin.Target {
	return admin.Target{Network: a.at.Network, Address: a.at.Dial(), Token: a.token}
}

// readAdmin reads where the program is to be asked: nowhere if nothing is
// written. The token's file matters on TCP only.
func readAdmin(v, file config.Value, services []config.Service) (adminPlace, error) {
	var none adminPlace
	wrong := func(err error) (adminPlace, error) { return none, &config.Problem{From: v.From, Err: err} }
	if v.Text == "" && !v.Given || v.Text == config.AdminOff {
		return none, nil
	}
	if v.Text == "" {
		return wrong(errors.New("is empty: write for example unix:/run/tiproxy.sock, or leave it out"))
	}
	at, err := config.ParseBind(v.Text)
	if err != nil {
		return wrong(err)
	}
	if config.Taken(at, services) {
		return wrong(fmt.Errorf("%q is where clients connect or the child listens: write another one", v.Text))
	}
	switch {
	case at.Network == "unix":
		return adminPlace{at: at}, nil
	case file.Text == "":
		return wrong(fmt.Errorf("%q is open to everybody who can reach it, so it needs a token: add %s FILE, or write for example unix:/run/tiproxy.sock", v.Text, file.From))
	}
	token, err := readToken(file.Text)
	if err != nil {
		return none, &config.Problem{From: file.From, Err: err}
	}
	return adminPlace{at: at, token: token}, nil
}

// readToken reads a token from the file at path.
func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, tokenMost+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(text))
	if len(text) > tokenMost {
		return "", fmt.Errorf("%s has more than %d bytes, and a token is one word", path, tokenMost)
	}
	if err := admin.CheckToken(token); err != nil {
		return "", fmt.Errorf("the token in %s %w", path, err)
	}
	return token, nil
}

// usualAdmin is where tiproxy run is asked unless it is told otherwise: a place
// that only its own user reaches. There is none for a plain user without
// XDG_RUNTIME_DIR.
func usualAdmin() adminPlace {
	dir := "/run"
	if runtime.GOOS != "linux" {
		dir = "/var/run"
	}
	if os.Geteuid() != 0 {
		dir = os.Getenv("XDG_RUNTIME_DIR")
	}
	if dir == "" {
		return adminPlace{}
	}
	at, err := config.ParseBind("unix:" + filepath.Join(dir, "tiproxy", "admin.sock"))
	if err != nil {
		return adminPlace{}
	}
	return adminPlace{at: at, usual: true}
}

// adminRoom is where the program can be asked about itself. The zero value is
// one that nobody asked for: closing it does nothing.
type adminRoom struct {
	bound    *binding
	server   *admin.Server
	stopping atomic.Bool
}

// bindAdmin takes the address, if there is to be one. Who asks waits for startAdmin.
func (p *program) bindAdmin(ctx context.Context) error {
	at := p.adminAt
	if at.at.Network == "" {
		return nil
	}
	if at.usual {
		// Whatever is wrong with it, listening tells.
		_ = os.Mkdir(filepath.Dir(at.at.Path), 0o700)
	}
	bound, err := listenAdmin(ctx, at.at)
	switch {
	case err == nil:
		p.admin.bound = bound
	case at.usual:
		p.log.Info(msgAdmin, "at", "nowhere", "why", err.Error(), "hint", "admin: unix:/PATH gives this tiproxy another place")
	default:
		return err
	}
	return nil
}

func listenAdmin(ctx context.Context, at config.Addr) (*binding, error) {
	if at.Network == "unix" {
		return bindUnix(ctx, at, listenOwnerOnly)
	}
	l, err := bindTCP(ctx, at, nil)
	if err != nil {
		return nil, err
	}
	return &binding{Listener: l}, nil
}

// listenOwnerOnly is admin.Listen as bindUnix wants it.
func listenOwnerOnly(ctx context.Context, path string) (net.Listener, error) {
	l, err := admin.Listen(ctx, path)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// startAdmin begins to answer, if there is an address.
func (p *program) startAdmin() error {
	if p.admin.bound == nil {
		return nil
	}
	v, c := built()
	var page admin.Page
	if p.adminAt.token != "" {
		page = dashboard.Opening(p.adminAt.token)
	}
	p.admin.server = admin.New(admin.Config{
		Services: api{p}, Program: api{p}, Journal: p.journal, Metrics: p.exporter.Handler(), Token: p.adminAt.token, Page: page, Log: p.log,
		Version: admin.Version{
			Version: v, Commit: c, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH,
			PID: os.Getpid(), Started: p.started,
		},
	})
	if err := p.admin.server.Serve(p.admin.bound.Listener); err != nil {
		return fmt.Errorf("%v: %w", p.adminAt.at, err)
	}
	level, attrs := slog.LevelInfo, []any{"at", p.admin.bound.address()}
	if at, ok := p.admin.bound.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() {
		level = slog.LevelWarn
		attrs = append(attrs, "reach", "other machines", "hint", "nothing is encrypted there, the token included: lead it through a tunnel")
	} else if ok {
		attrs = append(attrs, "reach", "every user of this machine who has the token")
	}
	p.log.Log(context.Background(), level, msgAdmin, attrs...)
	return nil
}

// close ends the room. Nobody can ask any more when it returns.
func (a *adminRoom) close() {
	if a.bound == nil {
		return
	}
	a.bound.unlink()
	if a.server == nil {
		a.bound.Close()
		return
	}
	a.server.Close()
}
