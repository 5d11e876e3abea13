package ratelimitprom_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/extra/ratelimitprom"
)

// dashboard is the part of a Grafana dashboard that is tested.
type dashboard struct {
	Title         string
	UID           string
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type string }
	}
	Panels []struct {
		ID         int
		Type       string
		Title      string
		Datasource struct{ Type, UID string }
		GridPos    struct{ X, Y, W, H int }
		Targets    []struct{ RefID, Expr string }
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, "dashboard.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDashboardIsImportable(t *testing.T) {
	d := readDashboard(t)
	if d.Title == "" || d.UID == "" || d.SchemaVersion < 30 || len(d.Panels) < 7 {
		t.Errorf("title %q, uid %q, schema %d, %d panels", d.Title, d.UID, d.SchemaVersion, len(d.Panels))
	}
	if list := d.Templating.List; len(list) != 3 || list[0].Name != "datasource" || list[0].Type != "datasource" || list[1].Name != "job" || list[2].Name != "policy" {
		t.Errorf("variables %+v", list)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" || p.Type == "" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %d %q of type %q on %q with %d targets", p.ID, p.Title, p.Type, p.Datasource.UID, len(p.Targets))
		}
		ids[p.ID] = true
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Expr == "" || target.RefID == "" || refs[target.RefID] {
				t.Errorf("panel %q: target %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
		if p.GridPos.W < 1 || p.GridPos.H < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q stands at %+v", p.Title, p.GridPos)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("panel %q stands on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// Every metric that the dashboard, the rules and the package's documentation name is exported, and the other way round.
func TestMetricsNamedAreExported(t *testing.T) {
	c, registry := registered(t, ratelimitprom.WithMemoryStore("main", ratelimit.NewMemoryStore()),
		ratelimitprom.WithFallbackStore("main", breaker(true)), ratelimitprom.WithLeases("main", leaser{}))
	e := eventOf("api", "/", ratelimit.ReasonStore)
	e.Waited = 1
	c.Observe(t.Context(), e)
	series := map[string]string{} // family by what a query may name
	for name, family := range gather(t, registry) {
		series[name] = name
		if family.Metric[0].Histogram != nil {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				series[name+suffix] = name
			}
		}
	}
	metric := regexp.MustCompile(`\bratelimit_[a-z_]+\b`)
	named := map[string]bool{}
	for _, file := range []string{"dashboard.json", "alerts.yml", "alerts_test.yml", "collector.go"} {
		for _, name := range metric.FindAllString(string(readFile(t, file)), -1) {
			if series[name] == "" {
				t.Errorf("%s names %s, which is not exported", file, name)
			}
			if file == "dashboard.json" {
				named[series[name]] = true
			}
		}
	}
	descs := make(chan *prometheus.Desc, 100)
	c.Describe(descs)
	if close(descs); len(descs) != len(named) {
		t.Errorf("the dashboard shows %d of %d metrics", len(named), len(descs))
	}
}

func TestPromtoolAcceptsRules(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}
