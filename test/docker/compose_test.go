//go:build linux

package dockere2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var composeFiles = []string{"docker-compose.yml", "docker-compose.cluster.yml"}

func TestCompose_BothFilesAreRight(t *testing.T) {
	l := shared(t)
	for _, file := range composeFiles {
		if err := run(l.compose(file, "config", "--quiet")); err != nil {
			t.Errorf("docker-compose: %v", err)
		}
	}
	if exec.Command("docker", "compose", "version").Run() != nil {
		fmt.Fprintln(os.Stderr, "*** NOT TESTED: the compose files with compose v2: docker has no compose plugin here")
		return
	}
	for _, file := range composeFiles {
		v2 := l.shell("docker compose -f ./docker/" + file + " config --quiet")
		if err := run(v2); err != nil {
			t.Errorf("compose v2: %v", err)
		}
	}
}

// Tables outlive the containers.
func TestCompose_DataSurvivesDownAndUp(t *testing.T) {
	l := shared(t)
	l.image(t)
	file := composeFiles[0]
	t.Cleanup(func() {
		if err := run(l.compose(file, "down", "--volumes")); err != nil {
			t.Error(err)
		}
	})
	up := func() *container {
		if err := run(l.compose(file, "up", "--detach")); err != nil {
			t.Fatal(err)
		}
		c := l.composed(t)
		c.event("listening", 1)
		return c
	}
	first := up()
	if grace := first.inspect("{{.Config.StopTimeout}}"); grace != "30" {
		t.Errorf("docker stop waits for %s s, want 30", grace)
	}
	l.sql(t, "create database shop; create table shop.t (id int primary key, s varchar(20)); insert into shop.t values (1, 'it''s kept')")
	if err := run(l.compose(file, "down")); err != nil {
		t.Fatal(err)
	}
	if second := up(); second.id == first.id {
		t.Fatal("down did not take the container away")
	}
	if got := l.sql(t, "select s from shop.t"); got != "it's kept" {
		t.Errorf("after down and up: %q", got)
	}
}

// The storage stays up while the SQL layer sleeps. Its stand-ins keep nothing.
func TestCompose_ClusterSleepsAboveItsStorage(t *testing.T) {
	l := shared(t)
	l.image(t)
	// The stand-ins get along with the descriptors that a machine for tests has.
	fewer := filepath.Join(l.dir, "fewer-descriptors.yml")
	few := "services:\n"
	for _, name := range []string{"tikv0", "tikv1", "tikv2"} {
		few += "  " + name + ": {ulimits: {nofile: 1024}}\n"
	}
	if err := os.WriteFile(fewer, []byte(few), 0o600); err != nil {
		t.Fatal(err)
	}
	compose := func(args ...string) *exec.Cmd {
		cmd := l.compose(composeFiles[1], append([]string{"-f", fewer, "-p", "tidb-cluster"}, args...)...)
		cmd.Env = append(cmd.Env, "TIPROXY_IDLE=3s")
		return cmd
	}
	t.Cleanup(func() {
		if err := run(compose("down", "--volumes")); err != nil {
			t.Error(err)
		}
	})
	if err := run(compose("up", "--detach")); err != nil {
		t.Fatal(err)
	}
	id, err := output(compose("ps", "--quiet", "tidb"))
	if err != nil {
		t.Fatal(err)
	}
	c := &container{t: t, lab: l, id: strings.TrimSpace(id)}
	c.event("listening", 1)
	l.sql(t, "select 1")
	c.event("closed", 1)
	c.asleep()
	running := l.docker(t, "ps", "--filter", "label=com.docker.compose.project=tidb-cluster", "--format", "{{.Label \"com.docker.compose.service\"}} {{.Ports}}")
	var services []string
	for line := range strings.SplitSeq(running, "\n") {
		service, ports, _ := strings.Cut(line, " ")
		services = append(services, service)
		if published := strings.Contains(ports, "->"); published != (service == "tidb") {
			t.Errorf("published by %s: %s", service, ports)
		}
	}
	slices.Sort(services)
	if got, want := strings.Join(services, " "), "pd0 pd1 pd2 tidb tikv0 tikv1 tikv2"; got != want {
		t.Errorf("running: %s, want %s", got, want)
	}
	for _, service := range services {
		id, err := output(compose("ps", "--quiet", service))
		if err != nil {
			t.Fatal(err)
		}
		if n := l.docker(t, "inspect", "--format", "{{.RestartCount}}", strings.TrimSpace(id)); n != "0" {
			t.Errorf("%s was restarted %s times", service, n)
		}
	}
	l.sql(t, "select 1")
	c.event("opened", 2)
}

// One release of TiDB is pinned, in every place.
func TestPinnedRelease_IsOne(t *testing.T) {
	release := regexp.MustCompile(`pingcap/(?:tidb|pd|tikv):(v[0-9][0-9.]*)`)
	found := map[string][]string{}
	for _, name := range []string{"docker/Dockerfile", "docker/docker-compose.yml", "docker/docker-compose.cluster.yml"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		all := release.FindAllStringSubmatch(string(text), -1)
		if len(all) == 0 {
			t.Errorf("%s pins no release", name)
		}
		for _, m := range all {
			found[m[1]] = append(found[m[1]], name)
		}
	}
	if len(found) != 1 {
		t.Errorf("different releases: %v", found)
	}
}

// The times that must agree: what tiproxy may need is below what docker gives.
func TestStopTimes_Agree(t *testing.T) {
	l := shared(t)
	l.image(t)
	var env []string
	if err := json.Unmarshal([]byte(l.docker(t, "inspect", "--format", "{{json .Config.Env}}", "tiproxy:latest")), &env); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"TIPROXY_STOP_TIMEOUT=20s", "TIPROXY_DRAIN_TIMEOUT=5s"} {
		if !slices.Contains(env, want) {
			t.Errorf("the image has %q, and not %s, which docs/tidb.md and stop_grace_period count on", env, want)
		}
	}
	for _, file := range composeFiles {
		text, err := output(l.compose(file, "config"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text, "stop_grace_period: 30s") {
			t.Errorf("%s: the grace period is not 30 s", file)
		}
	}
	ports := l.docker(t, "inspect", "--format", "{{json .Config.ExposedPorts}}", "tiproxy:latest")
	if ports != `{"10080/tcp":{},"4000/tcp":{}}` {
		t.Errorf("exposed: %s", ports)
	}
}
