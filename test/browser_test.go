//go:build linux

package e2e

import (
	"context"
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
	allocator, end := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(end)
	ctx, leave := chromedp.NewContext(allocator)
	t.Cleanup(leave)
	b := &browser{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
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
		held := false
		b.call(expression, func(ctx context.Context) (err error) {
			held, err = chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
			return err
		})
		if !held {
			return fmt.Errorf("it shows: %s", b.text())
		}
		return nil
	})
}

// text is all that can be read on the page.
func (b *browser) text() (text string) {
	b.t.Helper()
	b.call("read the page", func(ctx context.Context) (err error) {
		text, err = chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
		return err
	})
	return text
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

// A database that sleeps, woken by its own client and stopped by the button.
func TestDashboard_MariaDBInABrowser(t *testing.T) {
	t.Parallel()
	db := newMariaDB(t)
	socket := filepath.Join(sharedDir(t), "admin")
	list := func(words []string) string { return `["` + strings.Join(words, `", "`) + `"]` }
	file := configFile(t, fmt.Sprintf(`
admin: unix:%s
services:
  db: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: mariadbd, args: %s}
  web: {bind: "127.0.0.1:0", dest: "127.0.0.1:{port}", exec: %s, args: [role, echo, "127.0.0.1:{port}"], idle: 300ms}
`, socket, list(db.args("--bind-address=127.0.0.1", "--port={port}")), self))
	p := run(t, setup{line: []string{binary, "run", "--config", file}})
	front, address := openDashboard(t, socket)

	b := openBrowser(t)
	b.do("open the page", chromedp.Navigate(address.String()))
	const card = `document.querySelector('[data-service=db]')`
	b.shows(card + `?.dataset.state === "closed" && document.querySelector("#link").dataset.is === "live"`)
	b.shows(`location.href === "http://` + address.Host + `/"`)
	b.shows(card + `.querySelector(".why").textContent.includes("nobody has come yet")`)
	b.do("open the details", chromedp.Click(`[data-service=db] summary`))

	_, port, _ := strings.Cut(p.bindOf("db"), ":")
	client := openSession(t, host(), "mysql", "--no-defaults", "-h", "127.0.0.1", "-P", port, "-u", "root", "-N", "--unbuffered")
	client.say("SELECT 6 * 7;\n")
	client.hears("42")
	woke := p.expect("opened")
	b.shows(card + `.dataset.state === "opened"`)
	who := ""
	for _, e := range p.log.all() {
		if e.msg == "starting" && e.text("service") == "db" {
			who = e.text("client")
		}
	}
	if who == "" {
		t.Fatalf("nobody woke it: %s", woke.line)
	}
	b.shows(card + `.querySelector(".why").textContent === "woken by ` + who + `"`)
	b.shows(card + `.querySelector(".value.clients").textContent === "1"`)
	b.shows(card + `.querySelector(".output").textContent.includes("ready for connections")`)
	b.shows(card + `.querySelector(".history").textContent.includes("` + who + `")`)
	b.shows(card + `.querySelectorAll(".timeline .opened").length === 1 && ` + card + `.querySelectorAll(".colds .took").length === 1`)

	web := dial(t, host(), p.bindOf("web"))
	mustAsk(t, web, "hello")
	web.Close()
	b.shows(`document.querySelector('[data-service=web] .why').textContent === "nobody was connected"`)
	b.shows(`document.title.startsWith("1 of 2 awake")`)
	b.picture("awake-light", "light", 1200)
	b.picture("awake-dark", "dark", 1200)
	b.picture("awake-narrow", "light", 390)
	b.picture("awake-narrow-dark", "dark", 390)
	b.do("wide again", chromedp.EmulateViewport(1200, 900))

	// It asks before it cuts a client off, who leaves meanwhile.
	b.do("press stop", chromedp.Click(`[data-service=db] .stop`))
	b.shows(card + `.querySelector(".stop").textContent === "Stop with 1 client?"`)
	client.close()
	b.shows(card + `.querySelector(".value.clients").textContent === "0"`)
	b.do("press stop", chromedp.Click(`[data-service=db] .stop`))
	b.shows(card + `.dataset.state === "closed" && ` + card + `.querySelector(".why").textContent === "somebody asked for it"`)
	if s := statusOf(t, socket, "db"); s.State != "closed" {
		t.Errorf("after the button: %+v", s)
	}

	b.do("press hold", chromedp.Click(`[data-service=web] .hold`))
	b.shows(`document.querySelector('[data-service=web] .why').textContent.includes("held until")`)
	b.do("press release", chromedp.Click(`[data-service=web] .release`))
	b.shows(`document.querySelector('[data-service=web]').dataset.state === "closed"`)
	b.picture("asleep-light", "light", 1200)
	b.stayedAt(address.Host)

	// The address is used up, and says so in plain words.
	second := mustClient(t, "", "curl", "-s", "-o", "-", "-w", " %{http_code}", address.String())
	if !strings.Contains(second, "Run the command again") || !strings.HasSuffix(second, " 403") {
		t.Errorf("the second use: %s", second)
	}
	if err := front.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := front.ends(); code != 0 {
		t.Errorf("tiproxy dashboard ended with %d: %s", code, front.stderr.text())
	}
	b.shows(`document.querySelector("#link").dataset.is === "lost"`)
}
