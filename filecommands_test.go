package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tiproxy/internal/config"
)

// The example is right as it stands, and leaves no setting out.
func TestExampleFile(t *testing.T) {
	o, err := readFile("tiproxy.example.yaml", takenPorts{})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.services) != 2 || o.services[0].Name != "cache" || o.services[0].Idle != o.services[1].Idle*5 {
		t.Errorf("services: %+v", o.services)
	}
	text, err := os.ReadFile("tiproxy.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range settings() {
		if !regexp.MustCompile(`(?m)^ *(# )?` + regexp.QuoteMeta(s.Name) + `: `).Match(text) {
			t.Errorf("%s is not in the example", s.Name)
		}
	}
}

// What the example shows in comments is right, too, each by itself.
func TestExampleFile_CommentsAreRight(t *testing.T) {
	text, err := os.ReadFile("tiproxy.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	hidden := regexp.MustCompile(`(?m)^( *)# ([a-z-]+: )`)
	for _, at := range hidden.FindAllSubmatchIndex(text, -1) {
		name := string(text[at[4]:at[5]])
		if name == "yaml-language-server: " {
			continue
		}
		shown := string(text[:at[2]]) + string(text[at[2]:at[3]]) + string(text[at[4]:])
		if name == "quiet-policy: " {
			shown = strings.Replace(shown, "# quiet: ", "quiet: ", 1)
		}
		if strings.HasPrefix(name, "logs-") {
			shown = strings.Replace(shown, "# logs: ", "logs: ", 1)
		}
		path := filepath.Join(t.TempDir(), "tiproxy.yaml")
		if err := os.WriteFile(path, []byte(shown), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readFile(path, takenPorts{}); err != nil {
			t.Errorf("%s%v", name, err)
		}
	}
}

// The README's file is one.
func TestReadmeFile(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "    # tiproxy.yaml\n")
	text, _, ended := strings.Cut(rest, "\n\n")
	if !found || !ended || strings.Count(text, "\n") > 4 {
		t.Fatalf("no short file in the README: %q", text)
	}
	file := strings.ReplaceAll("\n"+text, "\n    ", "\n")
	file = strings.ReplaceAll(file, "mariadbd", "sh") // is in a directory of root's own
	f, err := config.Parse("README.md", []byte(file), config.Options{Port: takenPorts{}.of})
	if err != nil || len(f.Services) != 2 {
		t.Errorf("%d services, %v", len(f.Services), err)
	}
}

// What run would refuse check refuses, before anything is opened.
func TestCheckIsWhatRunWouldSay(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "token")
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir)
	const service = "services: {a: {bind: '127.0.0.1:0', dest: '127.0.0.1:{port}', exec: sh}}\n"
	texts := map[string]string{
		service + "admin: unix:/no/such/dir/admin.sock\n":                                              "/no/such/dir does not exist",
		service + "admin: 127.0.0.1:0\n":                                                               "add admin-token-file",
		service + "admin: 127.0.0.1:0\nadmin-token-file: none\n":                                       filepath.Join(dir, "none"),
		service + "admin: 127.0.0.1:0\nadmin-token-file: token\n":                                      "the token in " + short,
		service + "admin-token-file: ''\n":                                                             "admin-token-file is empty",
		service + "log-level: loud\n":                                                                  "log-level",
		strings.Replace(service, "exec: sh", "exec: sh, logs: 'file:/no/such/dir/'", 1):                "/no/such/dir does not exist",
		strings.Replace(service, "'127.0.0.1:0'", "'unix:"+dir+"/s'", 1) + "admin: unix:" + dir + "/s": "is where service a takes its clients",
	}
	if os.Getuid() != 0 { // who may write everywhere
		closed := filepath.Join(dir, "closed")
		if err := os.Mkdir(closed, 0o555); err != nil {
			t.Fatal(err)
		}
		texts[strings.Replace(service, "exec: sh", "exec: sh, logs: 'file:"+closed+"/'", 1)] = closed + " cannot be written to"
	}
	for text, want := range texts {
		path := filepath.Join(dir, "tiproxy.yaml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := readFile(path, takenPorts{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s%v\ndoes not say %s", text, err, want)
			continue
		}
		for _, command := range []string{"check", "run"} {
			if status := execute([]string{command, "--config", path}); status != exitUsage {
				t.Errorf("%s of %s ends with %d", command, text, status)
			}
		}
	}
}

func TestFileCommandsTakeNoWords(t *testing.T) {
	for _, line := range [][]string{{"run", "db"}, {"check", "--", "x"}, {"run", "--idle", "1m"}} {
		if status := execute(line); status != exitUsage {
			t.Errorf("%q ends with %d", line, status)
		}
	}
}
