//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// overlap tells of two services of p that were awake at the same time, going by
// its log.
func (p *tiproxy) overlap() (err error) {
	awake := map[string]bool{}
	for _, e := range p.log.all() {
		switch name := e.text("service"); e.msg {
		case "starting":
			awake[name] = true
			if len(awake) > 1 {
				err = fmt.Errorf("%v are awake at the same time: %s", awake, e.line)
			}
		case "closed":
			delete(awake, name)
		}
	}
	return err
}

// Three real servers share room for one: whoever is needed gets it from who is
// not, and every client is served.
func TestGroup_RoomForOneOfThreeServers(t *testing.T) {
	t.Parallel()
	x := newTrio(t)
	x.file = runReloadable(t, x.services("idle: 1h, group: small")+"groups: {small: {children: 1}}\n")
	const rounds = 4
	ask := []func(int) error{
		func(int) error { return x.query("SELECT 1 + 1").whole("2") },
		func(n int) error { return x.redis("incr", "n").whole(fmt.Sprint(n + 1)) },
		func(int) error { return x.page() },
	}
	for _, one := range ask { // one after the other
		if err := one(0); err != nil {
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	for _, one := range ask { // all at once
		all.Go(func() {
			for n := range rounds {
				if err := one(n + 1); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := x.p.overlap(); err != nil {
		t.Error(err)
	}
	if got := strings.Count(x.p.log.text(), `"reason":"room needed"`); got == 0 {
		t.Errorf("nobody has made room: %s", x.p.log.text())
	}
	t.Logf("%d, %d and %d lives", x.p.lives("sql"), x.p.lives("kv"), x.p.lives("www"))
}

// shownGroup is what a group looks like to its users.
type shownGroup struct {
	Name, Services, Waiting any
	Resources               []struct {
		Name        string
		Limit, Used int64
	}
}

// Nobody who is connected makes room. Who waits is seen, and served when there is room.
func TestGroup_WhoHasAClientStays(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort, "group: g, uses: {memory: 6GiB}")+echoing("two", anyPort, "group: g, uses: {memory: 3GiB}")+
		"groups: {g: {memory: 8GiB}}\n")
	one := dial(t, host(), f.p.bindOf("one"))
	mustAsk(t, one, "hello")
	two := dial(t, host(), f.p.bindOf("two"))
	asked := make(chan string)
	go func() {
		line, err := ask(two, "hello")
		asked <- fmt.Sprint(line, err)
	}()
	if e := f.p.expect("waits for room"); e.text("service") != "two" {
		t.Errorf("waits: %s", e.line)
	}
	var status struct{ Groups []shownGroup }
	if err := json.Unmarshal([]byte(mustClient(t, "", "curl", "-sS", "--unix-socket", f.socket, "http://tiproxy/api/v1/groups")), &status); err != nil {
		t.Fatal(err)
	}
	if g := status.Groups; len(g) != 1 || fmt.Sprint(g[0].Waiting) != "[two]" || len(g[0].Resources) != 1 || g[0].Resources[0].Used != 6<<30 || g[0].Resources[0].Limit != 8<<30 {
		t.Errorf("groups: %+v", g)
	}
	if said := steer(t, f.socket, "status"); !strings.Contains(said, "two") {
		t.Errorf("status: %s", said)
	}
	mustAsk(t, one, "still here")
	select {
	case got := <-asked:
		t.Errorf("served beyond the budget: %s", got)
	default:
	}
	one.Close()
	if got := <-asked; !strings.HasSuffix(got, "<nil>") {
		t.Errorf("after the wait: %s", got)
	}
	if err := f.p.overlap(); err != nil {
		t.Error(err)
	}
}

// Who waits for too long is told.
func TestGroup_TheWaitIsBounded(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("one", anyPort, "group: g")+echoing("two", anyPort, "group: g")+"groups: {g: {children: 1, wait: 300ms}}\n", "no room")
	one := dial(t, host(), f.p.bindOf("one"))
	mustAsk(t, one, "hello")
	if _, err := askAfresh(t, host(), f.p.bindOf("two"), "hello"); !wasReset(err) {
		t.Errorf("the end of the wait is %v, want a reset", err)
	}
	if e := f.p.expect("no room"); !strings.Contains(e.line, "one") || !strings.Contains(e.line, "two") {
		t.Errorf("said: %s", e.line)
	}
	if got := mustClient(t, "", "curl", "-sS", "-X", "POST", "-w", "%{http_code}", "--unix-socket", f.socket, "http://tiproxy/api/v1/services/two/start"); !strings.HasSuffix(got, "503") {
		t.Errorf("who starts it is told %s", got)
	}
	mustAsk(t, one, "still here")
}

// What a service needs is there before it, and for as long.
func TestGroup_Needs(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("web", anyPort, "needs: [db, cache]", "idle: 300ms")+
		echoing("db", anyPort, "idle: 100ms")+echoing("cache", anyPort, "idle: 100ms"))
	web := dial(t, host(), f.p.bindOf("web"))
	mustAsk(t, web, "hello")
	var order []string
	for range 3 {
		order = append(order, f.p.expect("opened").text("service"))
	}
	if fmt.Sprint(order) != "[db cache web]" {
		t.Errorf("ready in the order %v", order)
	}
	for range 3 { // well beyond their idle time
		<-time.After(150 * time.Millisecond)
		mustAsk(t, web, "hello")
	}
	if n := f.p.log.count("closed"); n != 0 {
		t.Errorf("%d were stopped while they were needed", n)
	}
	web.Close()
	closed := map[string]bool{}
	for range 3 {
		closed[f.p.expect("closed").text("service")] = true
	}
	if len(closed) != 3 {
		t.Errorf("closed: %v", closed)
	}
	f.p.asleep()
}

// Others may be woken along.
func TestGroup_WakeAlong(t *testing.T) {
	t.Parallel()
	f := runReloadable(t, echoing("web", anyPort, "wake: [db]")+echoing("db", anyPort))
	mustAsk(t, dial(t, host(), f.p.bindOf("web")), "hello")
	eventually(t, "db is woken along", func() error {
		if f.p.lives("db") != 1 {
			return fmt.Errorf("it is not")
		}
		return nil
	})
}

// A group that changes holds for the next who comes.
func TestGroup_Reload(t *testing.T) {
	t.Parallel()
	text := func(children int) string {
		return echoing("one", anyPort, "group: g") + echoing("two", anyPort, "group: g") + fmt.Sprintf("groups: {g: {children: %d}}\n", children)
	}
	f := runReloadable(t, text(1))
	one := dial(t, host(), f.p.bindOf("one"))
	mustAsk(t, one, "hello")
	two := dial(t, host(), f.p.bindOf("two"))
	f.p.expect("waits for room")
	f.becomes(text(2))
	mustAsk(t, two, "hello")
	mustAsk(t, one, "hello")
}

// Every connection is seen with what it has carried.
func TestAPI_Connections(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(sharedDir(t), "admin")
	p := run(t, setup{line: []string{binary, "run", "--config", configFile(t, fmt.Sprintf("admin: unix:%s\nservices:\n%s", socket, echoing("one", anyPort)))}})
	first, second := dial(t, host(), p.bindOf("one")), dial(t, host(), p.bindOf("one"))
	said := mustAsk(t, first, "hello")
	mustAsk(t, second, "hi")
	var got struct {
		Total       int
		Connections []struct {
			Peer      string
			Waiting   bool
			BytesUp   int `json:"bytes_up"`
			BytesDown int `json:"bytes_down"`
		}
	}
	if err := json.Unmarshal([]byte(mustClient(t, "", "curl", "-sS", "--unix-socket", socket, "http://tiproxy/api/v1/services/one/connections")), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Connections) != 2 {
		t.Fatalf("%+v", got)
	}
	if c := got.Connections[0]; c.Peer != first.LocalAddr().String() || c.BytesUp != len("hello\n") || c.BytesDown < len(said) || c.Waiting {
		t.Errorf("the first: %+v", c)
	}
	if n := metric(t, socket, `tiproxy_bytes_total{direction="up",service="one"}`); n != fmt.Sprint(len("hello\nhi\n")) {
		t.Errorf("bytes of connections that go on: %q", n)
	}
}

// A service that comes back while it is still leaving does not keep the groups
// from being what the file says.
func TestGroup_ReloadWhileAServiceComesBack(t *testing.T) {
	t.Parallel()
	group := func(children int) string { return fmt.Sprintf("groups: {g: {children: %d}}\n", children) }
	others := echoing("one", anyPort, "group: g") + echoing("two", anyPort, "group: g")
	f := runReloadable(t, others+echoing("back", anyPort)+group(1))
	back := dial(t, host(), f.p.bindOf("back"))
	mustAsk(t, back, "hello")
	f.becomes(others + group(1))
	f.becomes(others + echoing("back", anyPort) + group(2))
	one := dial(t, host(), f.p.bindOf("one"))
	mustAsk(t, one, "hello")
	two := dial(t, host(), f.p.bindOf("two"))
	mustAsk(t, two, "hello")
	mustAsk(t, back, "still here")
}
