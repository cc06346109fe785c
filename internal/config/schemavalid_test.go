package config

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// validator returns a judge of files by the published schema.
func validator(t *testing.T) func(text string) error {
	t.Helper()
	whole, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		var file any
		if err := yaml.Unmarshal([]byte(text), &file); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		data, err := json.Marshal(file)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		file, err = jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		return whole.Validate(file)
	}
}

// What tiproxy takes the schema takes.
func TestSchemaTakesWhatIsRight(t *testing.T) {
	valid := validator(t)
	example, err := os.ReadFile("../../tiproxy.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(example), "\n")
	if first != "# yaml-language-server: $schema=config-schema.json" {
		t.Errorf("the example begins with %q", first)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, minimal, _ := strings.Cut(string(readme), "    # tiproxy.yaml\n")
	minimal, _, _ = strings.Cut(minimal, "\n\n")
	for what, text := range map[string]string{"the example": string(example), "the README": minimal} {
		if err := valid(text); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	const service = "dest: '127.0.0.1:3000', exec: PROG, "
	for _, text := range []string{
		"services: {a: {" + service + "idle: 0, start-timeout: 1h1m0.5s, stop-signal: INT, max-connections: 10, max-waiting: '7'}}",
		"services: {a: {" + service + "args: [1, true, x, 1.5], env: {A: 1, B: true}, allow: 10.0.0.0/8, deny: ['10.0.0.0/8,::1']}}",
		"services: {a: {" + service + "args: x, env: [A=b], ready: [listen, 'log:x'], wake-rate: 5/1m, quiet: 5m, quiet-policy: close}}",
		"defaults: {idle: 5m}\nservices: {a: {" + service + "idle: null, bind: null, wake-on: null}}",
		"services: {a: {exec: PROG, path: inherit}}",
		"defaults: {path: inherit}\nservices: {a: {exec: PROG}}",
		"services: {a: {bind: 'unix:/run/a', dest: 'unix:/run/b', exec: PROG}}\nadmin: off\nlog-level: debug\nlog-format: null",
		"groups: {g: {children: 1, memory: 16GiB, slots: 3, wait: 0}}\nservices: {a: {" + service + "group: g, uses: {memory: 1.5GiB, slots: 0}}}",
		"groups: {g: {children: 1}}\nservices: {a: {" + service + "needs: [b]}, b: {bind: ':1', dest: '127.0.0.1:2', exec: PROG, wake: []}}",
		"services: {a: {" + service + "logs: 'file:/tmp/', logs-size: 0, logs-keep: 0}}",
		"services: {a: {dest: '127.0.0.1:{port}', exec: PROG, env: 'P={port}'}}",
	} {
		if _, err := someFile(t, text); err != nil {
			t.Errorf("tiproxy refuses %s: %v", text, err)
		}
		if err := valid(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, setting := range []string{"idle", "wake-on", "max-waiting", "bind", "logs-size", "wake-rate"} { // a variable may be anything
		if err := valid("services: {a: {" + service + setting + ": '${X}'}}"); err != nil {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

// What is wrong by its structure both refuse.
func TestSchemaRefusesWhatIsWrong(t *testing.T) {
	valid := validator(t)
	const service = "dest: '127.0.0.1:3000', exec: PROG, "
	for _, text := range []string{
		"{}", "[]", "services: {}", "services: []", "services: {a: null}", "services: {a: []}",
		"servces: {}\nservices: {a: {" + service + "}}",
		"services: {a: {dest: '127.0.0.1:3000'}}",
		"services: {a: {exec: PROG}}",
		"services: {a: {exec: PROG, path: copy}}",
		"services: {1a: {" + service + "}}",
		"services: {a: {" + service + "idel: 1m}}",
		"services: {a: {" + service + "idle: 30}}",
		"services: {a: {" + service + "idle: [1m]}}",
		"services: {a: {" + service + "idle: 1d}}",
		"services: {a: {" + service + "bind: '4000'}}",
		"services: {a: {" + service + "args: {x: y}}}",
		"services: {a: {" + service + "args: [[x]]}}",
		"services: {a: {" + service + "args: null, env: [A]}}",
		"services: {a: {" + service + "env: {A: {B: c}}}}",
		"services: {a: {" + service + "wake-on: bytes}}",
		"services: {a: {" + service + "path: fast}}",
		"services: {a: {" + service + "proxy-protocol: v3}}",
		"services: {a: {" + service + "max-waiting: 0}}",
		"services: {a: {" + service + "max-waiting: many}}",
		"services: {a: {" + service + "wake-rate: 5}}",
		"services: {a: {" + service + "logs: 'file:/tmp/', logs-size: 10}}",
		"services: {a: {" + service + "logs: 'file:/tmp/', logs-keep: -1}}",
		"services: {a: {" + service + "group: g, uses: [memory]}}\ngroups: {g: {memory: 1GiB}}",
		"services: {a: {" + service + "}}\ngroups: {g: {}}",
		"services: {a: {" + service + "}}\ngroups: {g: {memory: much}}",
		"services: {a: {" + service + "}}\ndefaults: {bind: ':1'}",
		"services: {a: {" + service + "}}\ndefaults: {args: [x]}",
		"services: {a: {" + service + "}}\ndefaults: null",
		"services: {a: {" + service + "}}\nlog-level: loud",
		"services: {a: {" + service + "}}\nlog-format: [text]",
		"services: {a: {" + service + "}}\nadmin: here",
	} {
		if _, err := someFile(t, text); err == nil {
			t.Errorf("tiproxy takes %s", text)
		}
		if valid(text) == nil {
			t.Errorf("the schema takes %s", text)
		}
	}
}
