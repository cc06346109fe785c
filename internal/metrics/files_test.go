package metrics

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

const (
	alertsFile    = "../../deploy/prometheus/alerts.yml"
	dashboardFile = "../../deploy/grafana/tiproxy.json"
)

// promtool checks the files that come with tiproxy as Prometheus would.
func promtool(t *testing.T, dir string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Fatal("promtool is missing: make packages installs it (Debian's prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), "promtool", args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestAlertsAreRightAndFire(t *testing.T) {
	dir := filepath.Dir(alertsFile)
	promtool(t, dir, "check", "rules", filepath.Base(alertsFile))
	promtool(t, dir, "test", "rules", "alerts_test.yml")
}

// exprs are the expressions of the dashboard.
func exprs(t *testing.T) (out []string) {
	t.Helper()
	data, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if p.Title == "" || ids[p.ID] || len(p.Targets) == 0 {
			t.Errorf("panel %d %q has no title, an id of another one, or shows nothing", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			out = append(out, target.Expr)
		}
	}
	return out
}

func TestDashboardAsksWhatPrometheusUnderstands(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups: [{name: d, rules: [\n")
	variables := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1d", "$service", ".*", "$instance", ".*")
	all := exprs(t)
	for i, e := range all {
		fmt.Fprintf(&rules, "{record: r%d, expr: %q},\n", i, variables.Replace(e))
	}
	rules.WriteString("]}]\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rules.yml"), []byte(rules.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Errorf("only %d expressions", len(all))
	}
	promtool(t, dir, "check", "rules", "rules.yml")
}

// What the files name exists.
func TestFilesNameMetricsThatExist(t *testing.T) {
	known, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	alerts, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`tiproxy_\w+`)
	texts := append(exprs(t), string(alerts))
	names := name.FindAllString(strings.Join(texts, "\n"), -1)
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		if base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(n, ""); !strings.Contains(string(known), "| `"+base+"` |") {
			t.Errorf("%s does not exist", n)
		}
	}
}
