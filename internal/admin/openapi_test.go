package admin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"tiproxy/internal/admin"
)

// description is docs/openapi.yaml.
type description struct {
	doc     map[string]any
	schemas *jsonschema.Compiler
}

const specURL = "mem:///openapi.json"

func openapi(t testing.TB) *description {
	t.Helper()
	text, err := os.ReadFile("../../docs/openapi.yaml")
	must(t, err)
	var loaded any
	must(t, yaml.Unmarshal(text, &loaded))
	// The validator wants what encoding/json makes.
	asJSON, err := json.Marshal(loaded)
	must(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	must(t, err)
	d := &description{doc: doc.(map[string]any), schemas: jsonschema.NewCompiler()}
	forbidOthers(d.doc["components"].(map[string]any)["schemas"])
	d.schemas.DefaultDraft(jsonschema.Draft2020)
	d.schemas.AssertFormat()
	must(t, d.schemas.AddResource(specURL, d.doc))
	return d
}

// forbidOthers makes every object strict: users must ignore fields that they do
// not know, but there must be none that is not described.
func forbidOthers(node any) {
	switch n := node.(type) {
	case map[string]any:
		if _, object := n["properties"].(map[string]any); object && n["type"] == "object" {
			n["additionalProperties"] = false
		}
		for _, below := range n {
			forbidOthers(below)
		}
	case []any:
		for _, below := range n {
			forbidOthers(below)
		}
	}
}

// at returns what is at a place in the document.
func (d *description) at(keys ...string) map[string]any {
	node := d.doc
	for _, k := range keys {
		below, _ := node[k].(map[string]any)
		if ref, ok := below["$ref"].(string); ok {
			below = d.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
		node = below
	}
	return node
}

// check validates an answer to one question.
func (d *description) check(t testing.TB, method, path string, status int, contentType string, body []byte) {
	t.Helper()
	responses := d.at("paths", path, strings.ToLower(method), "responses")
	name := fmt.Sprint(status)
	if _, ok := responses[name]; !ok {
		if name = "default"; status < 400 {
			t.Errorf("%s %s: status %d is not described", method, path, status)
			return
		}
	}
	response := d.at("paths", path, strings.ToLower(method), "responses", name)
	kind, _, _ := strings.Cut(contentType, ";")
	content, ok := response["content"].(map[string]any)[kind]
	if !ok {
		t.Errorf("%s %s: %d with %s is not described", method, path, status, contentType)
		return
	}
	if kind == "application/json" {
		ref, _ := content.(map[string]any)["schema"].(map[string]any)["$ref"].(string)
		d.valid(t, method+" "+path, ref, body)
	}
}

// valid validates a value against the schema that a reference names.
func (d *description) valid(t testing.TB, what, ref string, value []byte) {
	t.Helper()
	schema, err := d.schemas.Compile(specURL + ref)
	must(t, err)
	got, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	must(t, err)
	if err := schema.Validate(got); err != nil {
		t.Errorf("%s: %v\n%s", what, err, value)
	}
}

func TestOpenAPI_EveryPathIsThereAndNoOther(t *testing.T) {
	var described []string
	for path, item := range openapi(t).at("paths") {
		for method := range item.(map[string]any) {
			if method != "parameters" {
				described = append(described, strings.ToUpper(method)+" "+path)
			}
		}
	}
	there := newWorld().server(t).Patterns()
	slices.Sort(described)
	slices.Sort(there)
	if diff := cmp.Diff(there, described); diff != "" {
		t.Errorf("what is there, and (+) what docs/openapi.yaml describes:\n%s", diff)
	}
}

// full is a world in which every field has a value.
func full() *world {
	w := newWorld("db", "web")
	now := time.Now()
	bad := &admin.Failure{At: now, Error: "e", Hint: "h", Lines: []string{"l"}}
	w.services[0] = admin.Service{
		Name: "db", State: admin.StateOpened, Since: now, PID: 7, Bind: "b", Dest: "d", Program: "p", Path: "direct", Group: "g",
		Connections: 1, Waiting: 2, Resting: 3, Served: 4, Starts: 5, Failures: 6, BytesUp: 7, BytesDown: 8, Failed: "f", Draining: "asked for", LastError: bad,
		HeldUntil: now, IdleDeadline: now, CountingSince: now,
		ColdStarts: []admin.ColdStart{{At: now, Who: "w", Took: admin.InSeconds(time.Millisecond), OK: true}},
		Timeline:   []admin.Change{{At: now, State: admin.StateOpened, Reason: "r"}},
		Seconds:    admin.InState{Closed: 1, Starting: 2, Opened: 3, Shutdown: 4},
	}
	w.groups = []admin.Group{{Name: "g", Resources: []admin.Resource{{Name: "memory", Limit: 16 << 30, Used: 1}}}}
	return w
}

func TestOpenAPI_AnswersAreAsDescribed(t *testing.T) {
	d := openapi(t)
	w := full()
	handler := w.server(t).Handler()
	ask := func(method, path, described string, want int) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		out := httptest.NewRecorder()
		handler.ServeHTTP(out, r)
		if out.Code != want {
			t.Errorf("%s %s: %d, want %d: %s", method, path, out.Code, want, out.Body)
		}
		d.check(t, method, described, out.Code, out.Header().Get("Content-Type"), out.Body.Bytes())
	}
	const api, one = "/api/v1", "/api/v1/services/{name}"
	for _, path := range []string{"/healthz", "/readyz", api + "/version", api + "/services", api + "/groups"} {
		ask("GET", path, path, http.StatusOK)
	}
	ask("GET", "/metrics", "/metrics", http.StatusNotFound)
	for path, want := range map[string]int{"": 200, "/connections": 200, "/connections?limit=1": 200, "/connections?limit=0": 400, "/connections?limit=x": 400, "/output?follow=0": 200, "/output?follow=no": 400, "/output?history=2": 400} {
		described, _, _ := strings.Cut(path, "?")
		ask("GET", api+"/services/db"+path, one+described, want)
	}
	for path, want := range map[string]int{"/start": 200, "/stop": 200, "/release": 200, "/hold?for=2h": 200, "/hold": 400, "/hold?for=2": 400, "/hold?for=-1s": 400, "/hold?for=9000h": 400} {
		described, _, _ := strings.Cut(path, "?")
		ask("POST", api+"/services/web"+path, one+described, want)
		if want == http.StatusOK {
			ask("POST", api+"/services/nobody"+path, one+described, http.StatusNotFound)
		}
	}
	ask("GET", api+"/services/nobody", one, 404)
	ask("POST", api+"/reload", api+"/reload", 200)
	w.change(func(w *world) { w.sick = errors.New("stopping") })
	ask("GET", "/healthz", "/healthz", 503)
	ask("GET", "/readyz", "/readyz", 503)
	w.do = func(ctx, string, admin.Order) error { return &admin.Problem{Status: 502, Text: "no", Hint: "h"} }
	ask("POST", api+"/services/db/start", one+"/start", 502)
	w.do = func(ctx, string, admin.Order) error { return errors.New("bad luck") }
	ask("POST", api+"/services/db/start", one+"/start", 500)
	w.reload = func(ctx) (admin.Reloaded, error) {
		return admin.Reloaded{}, &admin.Problem{Status: 422, Text: "wrong file"}
	}
	ask("POST", api+"/reload", api+"/reload", 422)
}

func TestOpenAPI_EventsAreAsDescribed(t *testing.T) {
	d := openapi(t)
	kinds, _ := d.at("components", "schemas", "Event", "properties", "kind")["enum"].([]any)
	ours := []any{
		admin.KindStarting, admin.KindOpened, admin.KindStartFailed, admin.KindShutdown, admin.KindClosed, admin.KindHeld,
		admin.KindReleased, admin.KindReloaded, admin.KindReloadFailed, admin.KindStopping, admin.KindStatistics, admin.KindDropped,
	}
	if diff := cmp.Diff(ours, kinds); diff != "" {
		t.Errorf("kinds:\n%s", diff)
	}
	w := full()
	at, _ := w.onSocket(t)
	now := time.Now()
	w.journal.Tell(admin.Event{
		Kind: admin.KindClosed, At: now, Service: "db", State: admin.StateClosed, PID: 1, Who: "w", Reason: "r", Took: 1, Uptime: 2, Until: now,
		Failure: &admin.Failure{Error: "e"},
	})
	s := follow(t, at, eventsPath, "")
	for range 3 { // and the statistics of two services
		m, err := s.Next()
		must(t, err)
		d.valid(t, m.Kind, "#/components/schemas/Event", m.Data)
	}
	w.output.say("a line")
	m, err := follow(t, at, "/api/v1/services/db/output", "").Next()
	must(t, err)
	d.valid(t, m.Kind, "#/components/schemas/Line", m.Data)
}
