//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a window of a headless Chromium of its own.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu    sync.Mutex
	asked []string // addresses that it asked for
	wrong []string // what it complained about
}

// openBrowser starts one, and sees to its end.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		t.Fatal("no chromium: scripts/packages.sh installs it")
	}
	home := sharedDir(t)
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath("chromium"), chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home),
		chromedp.NoSandbox, // root gets none
	)
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...) // cleanups end it
	t.Cleanup(end)
	ctx, leave := chromedp.NewContext(allocator)
	t.Cleanup(leave)
	b := &browser{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	t.Cleanup(func() {
		// It may have gone before it could answer that it goes.
		if err := chromedp.Cancel(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("end chromium: %v", err)
		}
	})
	b.call("listen to the log", func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, cdplog.Enable, struct{}{})
		return err
	})
	return b
}

// hear takes what the browser tells about itself.
func (b *browser) hear(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		b.asked = append(b.asked, ev.Request.URL)
	case *cdplog.EventEntryAdded:
		b.wrong = append(b.wrong, fmt.Sprintf("%s: %s (%s)", ev.Entry.Level, ev.Entry.Text, ev.Entry.URL))
	case *runtime.EventConsoleAPICalled:
		b.wrong = append(b.wrong, fmt.Sprintf("console.%s", ev.Type))
	case *runtime.EventExceptionThrown:
		b.wrong = append(b.wrong, ev.ExceptionDetails.Text)
	}
}

// call does something with the window, within the bound.
func (b *browser) call(what string, do func(context.Context) error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*bound)
	defer cancel()
	if err := do(ctx); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	b.call(what, func(ctx context.Context) error { return chromedp.Do(ctx, steps...) })
}

// shows waits until an expression of the page's script holds. The page's policy
// does not let the browser be told to wait for it.
func (b *browser) shows(expression string) {
	b.t.Helper()
	eventually(b.t, "the page: "+expression, func() error {
		held, err := evaluate[bool](b, "Boolean("+expression+")")
		if err != nil || held {
			return err // such as that it is being left for another one
		}
		text, err := evaluate[string](b, "document.body?.innerText ?? ''")
		return fmt.Errorf("it shows %q, %v", text, err)
	})
}

// evaluate asks the page's script.
func evaluate[T any](b *browser, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, 2*bound)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression))
}

// picture keeps what the page looks like, in a theme and that many pixels wide.
func (b *browser) picture(name, theme string, width int64) {
	b.t.Helper()
	dir := os.Getenv("DASHBOARD_SCREENSHOTS")
	if dir == "" {
		dir = b.t.TempDir()
	}
	b.call("take a picture", func(ctx context.Context) error {
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}}
		if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
			return err
		}
		if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 900)); err != nil {
			return err
		}
		wide, err := chromedp.Run(ctx, chromedp.Evaluate[int64]("document.documentElement.scrollWidth"))
		if err != nil {
			return err
		}
		if wide > width {
			b.t.Errorf("%s: the page is %d pixels wide in a window of %d", name, wide, width)
		}
		png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	})
}

// stayedAt checks that the browser asked nobody else, and complained of nothing.
func (b *browser) stayedAt(address string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, to := range b.asked {
		u, err := url.Parse(to)
		if err != nil || u.Host != address {
			b.t.Errorf("the page asked for %s", to)
		}
	}
	if len(b.asked) < 5 {
		b.t.Errorf("asked for %q: not all was seen", b.asked)
	}
	for _, w := range b.wrong {
		b.t.Errorf("the browser complained: %s", w)
	}
}

// openDashboard runs tiproxy dashboard and returns the address that it prints.
func openDashboard(t *testing.T, socket string) (s *session, address *url.URL) {
	t.Helper()
	s = openSession(t, host(), binary, "dashboard", "--admin", "unix:"+socket)
	s.hears("\n")
	line, _, _ := strings.Cut(s.stdout.text(), "\n")
	address, err := url.Parse(line)
	if err != nil || address.Query().Get("token") == "" || !strings.HasPrefix(address.Host, "127.0.0.1:") {
		t.Fatalf("it printed %q: %v", line, err)
	}
	return s, address
}

// inTheBrowser is a tiproxy with a database and a small server, and the page
// that shows them.
type inTheBrowser struct {
	*browser
	p       *tiproxy
	socket  string   // of the API
	front   *session // tiproxy dashboard
	address *url.URL
}

func showInBrowser(t *testing.T) inTheBrowser {
	t.Helper()
	db := newMariaDB(t)
	socket := filepath.Join(sharedDir(t), "admin")
	list := func(words []string) string { return `["` + strings.Join(words, `", "`) + `"]` }
	file := configFile(t, fmt.Sprintf(`
admin: unix:%s
groups: {small: {children: 2}}
services:
  db: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: mariadbd, args: %s}
  web: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %s, args: [role, echo, "127.0.0.1:{port}"], idle: 300ms, group: small}
`, socket, list(db.args("--bind-address=127.0.0.1", "--port={port}")), self))
	p := run(t, setup{line: []string{binary, "run", "--config", file}})
	front, address := openDashboard(t, socket)
	b := openBrowser(t)
	b.do("open the page", chromedp.Navigate(address.String()))
	return inTheBrowser{browser: b, p: p, socket: socket, front: front, address: address}
}

// of waits until an expression holds in which card is a service's.
func (b inTheBrowser) of(service, expression string) {
	b.t.Helper()
	b.shows(`((card) => ` + expression + `)(document.querySelector('[data-service=` + service + `]'))`)
}

func (b inTheBrowser) press(service, what string) {
	b.t.Helper()
	b.do("press "+what, chromedp.Click(`[data-service=`+service+`] `+what))
}

// waker is who woke a service first, as the log has it.
func (b inTheBrowser) waker(service string) string {
	b.t.Helper()
	for _, e := range b.p.log.all() {
		if e.msg == "starting" && e.text("service") == service {
			return e.text("client")
		}
	}
	b.t.Fatalf("nobody woke %s", service)
	return ""
}

// A database that sleeps, woken by its own client and stopped by the button.
func TestDashboard_MariaDBInABrowser(t *testing.T) {
	t.Parallel()
	b := showInBrowser(t)
	b.of("db", `card?.dataset.state === "closed" && document.querySelector("#link").dataset.is === "live"`)
	b.shows(`location.href === "http://` + b.address.Host + `/"`)
	b.of("db", `card.querySelector(".why").textContent.includes("nobody has come yet")`)
	b.press("db", "summary")

	_, port, _ := strings.Cut(b.p.bindOf("db"), ":")
	client := openSession(t, host(), "mysql", "--no-defaults", "-h", "127.0.0.1", "-P", port, "-u", "root", "-N", "--unbuffered")
	client.say("SELECT 6 * 7;\n")
	client.hears("42")
	who := b.waker("db")
	b.of("db", `card.dataset.state === "opened" && card.querySelector(".why").textContent === "woken by `+who+`"`)
	b.of("db", `card.querySelector(".value.clients").textContent === "1"`)
	b.of("db", `card.querySelector(".output").textContent.includes("ready for connections")`)
	b.of("db", `card.querySelector(".history").textContent.includes("`+who+`")`)
	b.of("db", `card.querySelectorAll(".timeline .opened").length === 1 && card.querySelectorAll(".colds .took").length === 1`)

	b.of("db", `card.querySelector(".conns tbody").textContent.includes("`+who+`")`)
	b.of("db", `!card.querySelector(".bytes").textContent.startsWith("0 B in")`)
	b.shows(`document.querySelector("#groups").textContent === "smallwebchildren0 of 2"`)

	web := dial(t, host(), b.p.bindOf("web"))
	mustAsk(t, web, "hello")
	web.Close()
	b.of("web", `card.dataset.state === "closed" && card.querySelector(".why").textContent === "nobody was connected"`)
	b.shows(`document.title.startsWith("1 of 2 awake")`)
	b.picture("awake-light", "light", 1200)
	b.picture("awake-dark", "dark", 1200)
	b.picture("awake-narrow", "light", 390)
	b.picture("awake-narrow-dark", "dark", 390)
	b.do("wide again", chromedp.EmulateViewport(1200, 900))

	// It asks before it cuts a client off, who leaves meanwhile.
	b.press("db", ".stop")
	b.of("db", `card.querySelector(".stop").textContent === "Stop with 1 client?"`)
	client.close()
	b.of("db", `card.querySelector(".value.clients").textContent === "0"`)
	b.press("db", ".stop")
	b.of("db", `card.dataset.state === "closed" && card.querySelector(".why").textContent === "somebody asked for it"`)
	if s := statusOf(t, b.socket, "db"); s.State != "closed" {
		t.Errorf("after the button: %+v", s)
	}
	b.picture("asleep-light", "light", 1200)
	b.stayedAt(b.address.Host)
}

// Held and released by the buttons; the address is used up; a page whose
// command has ended says so.
func TestDashboard_HoldsAndEnds(t *testing.T) {
	t.Parallel()
	b := showInBrowser(t)
	b.of("web", `card?.dataset.state === "closed"`)
	b.press("web", ".hold")
	b.of("web", `card.dataset.state === "opened" && card.querySelector(".why").textContent.includes("held until")`)
	if s := statusOf(t, b.socket, "web"); s.HeldUntil == "" {
		t.Errorf("after the button: %+v", s)
	}
	b.press("web", ".release")
	b.of("web", `card.dataset.state === "closed" && card.querySelector(".hold").checkVisibility()`)
	b.stayedAt(b.address.Host)

	second := mustClient(t, "", "curl", "-s", "-w", " %{http_code}", b.address.String())
	if !strings.Contains(second, "Run the command again") || !strings.HasSuffix(second, " 403") {
		t.Errorf("the second use: %s", second)
	}
	if err := b.front.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := b.front.ends(); code != 0 {
		t.Errorf("tiproxy dashboard ended with %d: %s", code, b.front.stderr.text())
	}
	b.shows(`document.querySelector("#link").dataset.is === "lost"`)
}

// At the API's own address the page asks for the token.
func TestDashboard_AtAFixedAddress(t *testing.T) {
	t.Parallel()
	const token = "0123456789abcdef-of-a-test"
	secret := filepath.Join(sharedDir(t), "token")
	if err := os.WriteFile(secret, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := configFile(t, fmt.Sprintf(`
admin: 127.0.0.1:%s
admin-token-file: %s
services: {web: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %s, args: [role, echo, "127.0.0.1:{port}"]}}
`, freePort(t), secret, self))
	p := run(t, setup{line: []string{binary, "run", "--config", file}})
	at := ""
	for _, e := range p.log.all() {
		if e.msg == "admin" {
			at = e.text("at")
		}
	}
	b := openBrowser(t)
	b.do("open the page", chromedp.Navigate("http://"+at+"/"))
	b.shows(`document.querySelector("#token")?.checkVisibility() && !document.querySelector("#all").checkVisibility()`)
	b.picture("door", "light", 390)
	b.do("write a wrong token", chromedp.SendKeys("#token", token[1:]+"\r"))
	b.shows(`document.querySelector("#wrong")?.checkVisibility()`)
	b.do("write the token", chromedp.SendKeys("#token", token+"\r"))
	b.shows(`document.querySelector("[data-service=web]")?.dataset.state === "closed" && location.search === ""`)
	b.shows(`document.cookie === ""`)
	b.do("start it", chromedp.Click("[data-service=web] .start"))
	b.shows(`document.querySelector("[data-service=web]").dataset.state === "opened"`)
	b.do("log out", chromedp.Click("#leave button"))
	b.shows(`document.querySelector("#token")?.checkVisibility() && !document.querySelector("#wrong").checkVisibility()`)
}
