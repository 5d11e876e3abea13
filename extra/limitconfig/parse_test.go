package limitconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gin-ratelimit/ratelimit"
)

func toJSON(t testing.TB, value any) string {
	t.Helper()
	data, err := json.MarshalIndent(value, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestMistakes(t *testing.T) {
	const (
		rate  = `: want tokens/period, as in "10/s", "100/m" or "1/86.4s"`
		limit = `: want a limit, as in "10/s" or "100/m burst 200"`
		form  = `want a route as it is registered, "GET /users/:id", or "/users/:id" for every method`
	)
	for document, want := range map[string]string{
		"":                           `line 1: is empty: write at least "default: 100/m"`,
		"# nothing\n":                `line 1: is empty: write at least "default: 100/m"`,
		"---\n":                      `line 2: is empty: want a mapping of names`,
		"10/s":                       `line 1: is "10/s": want a mapping of names`,
		"- 10/s":                     `line 1: is a list: want a mapping of names`,
		"{}":                         `line 1: default: is missing: write the limits for all other requests, as in "default: 100/m"`,
		"\nroutes: {}":               `line 2: default: is missing: write the limits for all other requests, as in "default: 100/m"`,
		"default: 1/s\n---\na: b":    `line 2: a second document begins: put all into one`,
		"default: 1/s\ndefault: 2":   `line 2: default: is given twice, first in line 1: remove one`,
		"default: 1/s\n'default': 2": `line 2: default: is given twice, first in line 1: remove one`,
		"default: 1/s\nplan: {}":     `line 2: unknown field "plan": want default, routes, plans or keys`,
		"default: 1/s\nGET /x: 1/s":  `line 2: unknown field "GET /x": want default, routes, plans or keys`,
		"default:":                   `line 1: default: is empty` + limit,
		"default: ~":                 `line 1: default: is empty` + limit,
		"default: ''":                `line 1: default: rate ""` + rate,
		"default: 10":                `line 1: default: rate "10"` + rate,
		"default: true":              `line 1: default: rate "true"` + rate,
		"default: 10/x":              `line 1: default: rate "10/x"` + rate,
		"default: 0/s":               `line 1: default: refill rate 0/s: tokens must be at least 1, for example PerSecond(10)`,
		"default: 10/s burst x":      `line 1: default: limit "10/s burst x": the burst must be a whole number, as in "100/m burst 200"`,
		"default: 10/s burst 0":      `line 1: default: capacity 0 of limit "10/s burst 0": must be at least 1`,
		"default: {rate: 1/s}":       `line 1: default: is a mapping` + limit,
		"default: []":                `line 1: default: is empty: give at least one limit, as in ["100/m"]`,
		"default:\n- 1/s\n- [2/s]":   `line 3: default[1]: is a list` + limit,
		"default:\n- 1/s\n-\n":       `line 3: default[1]: is empty` + limit,
		"default:\n- 1/s\n- 5\n":     `line 3: default[1]: rate "5"` + rate,
		"default: !limit 1/s":        `line 1: default: the tag !limit is not supported: remove it`,
		"default: !!str 1/s":         `line 1: default: the tag !!str is not supported: remove it`,
		"!x default: 1/s":            `line 1: the tag !x is not supported: remove it`,
		"!x {default: 1/s}":          `line 1: the tag !x is not supported: remove it`,

		"default: 1/s\nroutes: 1/s":                  `line 2: routes: is "1/s": want a mapping of names`,
		"default: 1/s\nroutes: [GET /x]":             `line 2: routes: is a list: want a mapping of names`,
		"default: 1/s\nroutes: {GET /x: {}}":         `line 2: routes["GET /x"]: is a mapping` + limit,
		"default: 1/s\nroutes: {GET /x: }":           `line 2: routes["GET /x"]: is empty` + limit,
		"default: 1/s\nroutes: {users: 1/s}":         `line 2: routes["users"]: ` + form,
		"default: 1/s\nroutes: {GET users: 1/s}":     `line 2: routes["GET users"]: ` + form,
		"default: 1/s\nroutes: {GET  /x: 1/s}":       `line 2: routes["GET  /x"]: ` + form,
		"default: 1/s\nroutes: {' /x': 1/s}":         `line 2: routes[" /x"]: ` + form,
		"default: 1/s\nroutes: {'': 1/s}":            `line 2: routes[""]: ` + form,
		"default: 1/s\nroutes: {get /x: 1/s}":        `line 2: routes["get /x"]: methods are written in capitals: "GET /x"`,
		"default: 1/s\nroutes: {ANY /x: 1/s}":        `line 2: routes["ANY /x"]: ANY is no method: write "/x" for every method`,
		"default: 1/s\nroutes: {'/x ': 1/s}":         `line 2: routes["/x "]: spaces belong to the route: write "/x"`,
		"default: 1/s\nroutes: {/x?y=1: 1/s}":        `line 2: routes["/x?y=1"]: a route has no query: write "/x"`,
		"default: 1/s\nroutes: {'GET,POST /x': 1/s}": `line 2: routes["GET,POST /x"]: one method a line: "GET /x" and so on, or "/x" for every method`,
		"default: 1/s\nroutes: {G3T /x: 1/s}":        `line 2: routes["G3T /x"]: "G3T" is no method: want capital letters, as in "GET /users/:id"`,
		"default: 1/s\nroutes: {[a]: 1/s}":           `line 2: routes: a name is a list: want text`,
		"default: 1/s\nroutes:\n /x: 1/s\n /x: 2":    `line 4: routes["/x"]: is given twice, first in line 3: remove one`,

		"default: 1/s\nplans: {p: {}}":                  `line 2: plans["p"]: is empty: give limits, as in "100/m", or default and routes`,
		"default: 1/s\nplans: {p: }":                    `line 2: plans["p"]: is empty` + limit,
		"default: 1/s\nplans: {p: {limit: 1/s}}":        `line 2: plans["p"]: unknown field "limit": want default or routes`,
		"default: 1/s\nplans: {p: {plans: {}}}":         `line 2: plans["p"]: unknown field "plans": want default or routes`,
		"default: 1/s\nplans: {p: {routes: {/x: [1]}}}": `line 2: plans["p"].routes["/x"][0]: rate "1"` + rate,
		"default: 1/s\nplans: {'': 1/s}":                `line 2: plans[""]: "" is requests without a plan: they have the default and routes of the document`,
		"default: 1/s\nplans: {q: 1/s}":                 `line 2: plans["q"]: there is no such plan: WithPlan names ["p"]`,
		"default: &d 1/s\nplans: {p: {<<: {}}}":         `line 2: plans["p"]: "<<" is not supported: write the fields out, or give a whole value by its alias`,
		"default: 1/s\nplans: &p {p: *p}":               `line 2: plans["p"]: unknown field "p": want default or routes`,
		"default: &d [*d]":                              `line 1: default[0]: is a list` + limit,
		"default: 1/s\nkeys: {example.com: 1/s}":        `line 2: keys["example.com"]: want a client's address, as in "192.0.2.7" or "2001:db8::/64"; for other keys load with WithKeyFunc, for networks see extra/iplist`,
		"default: 1/s\nkeys: {10.0.0.0/8: 1/s}":         `line 2: keys["10.0.0.0/8"]: want a client's address, as in "192.0.2.7" or "2001:db8::/64"; for other keys load with WithKeyFunc, for networks see extra/iplist`,
		"default: 1/s\nkeys: {'2001:db8::1': 1/s}":      `line 2: keys["2001:db8::1"]: the client's key is "2001:db8::/64": write that`,
		"default: 1/s\nkeys: {'2001:db8:0::/64': 1/s}":  `line 2: keys["2001:db8:0::/64"]: the client's key is "2001:db8::/64": write that`,
		"default: 1/s\nkeys: {'::ffff:192.0.2.7': 1/s}": `line 2: keys["::ffff:192.0.2.7"]: the client's key is "192.0.2.7": write that`,

		"default: [":                  "line 2: while parsing a flow node: did not find expected node content",
		"default: 1/s\n\ta: b":        "line 2: while scanning a plain scalar: found a tab character that violates indentation",
		"default: 1/s\n---\n[":        "line 4: while parsing a flow node: did not find expected node content",
		"a: b: c":                     "line 1: mapping values are not allowed in this context",
		"default: *x":                 "line 1: unknown anchor 'x' referenced",
		"default: \x01":               "control characters are not allowed (value: 1)",
		`{"default": "\ud83d\ude00"}`: "line 1: while scanning a quoted scalar: found invalid Unicode character escape code",
	} {
		_, err := Load([]byte(document), WithPlan(planOf, "p"))
		if err == nil || err.Error() != "limitconfig: "+want {
			t.Errorf("%q:\n got %v\nwant limitconfig: %s", document, err, want)
		}
	}
	if _, err := Load([]byte("default: 1/s\nplans: {p: 1/s}")); err == nil || err.Error() != `limitconfig: line 2: plans["p"]: no function returns a request's plan: load with WithPlan` {
		t.Error(err)
	}
}

// All mistakes are reported at once, in the order of the document, each as a Mistake.
func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Load([]byte(`
defalt: 10/s
routes:
  GET users: 5/x
  /x: [1/s, 2, 3]
plans:
  pro: {default: 1/s, rotues: {}}
keys:
  192.0.2.7: 0/s
`), WithPlan(planOf))
	var lines []int
	var fields []string
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		var m *Mistake
		if !errors.As(err, &m) {
			t.Fatalf("%v is no Mistake", err)
		}
		lines, fields = append(lines, m.Line), append(fields, m.Field)
	}
	if want := []int{2, 2, 4, 4, 5, 5, 7, 9}; !reflect.DeepEqual(lines, want) {
		t.Errorf("lines %v, want %v\n%v", lines, want, err)
	}
	if want := []string{"", "default", `routes["GET users"]`, `routes["GET users"]`, `routes["/x"][1]`, `routes["/x"][2]`, `plans["pro"]`, `keys["192.0.2.7"]`}; !reflect.DeepEqual(fields, want) {
		t.Errorf("fields %q, want %q", fields, want)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	document := "default: 1/s\n"
	for i := range 1234 {
		document += fmt.Sprintf("%s%d: x\n", strings.Repeat("a", 200), i)
	}
	_, err := Load([]byte(document))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != 101 || lines[100] != "limitconfig: and 1134 more" || len(lines[0]) > 200 {
		t.Errorf("%d lines: %s … %s", len(lines), lines[0], lines[len(lines)-1])
	}
}

// Documents that have no mistake.
func TestForms(t *testing.T) {
	for document, want := range map[string]string{
		"default: 10/s":                                         "10/s",
		"default: ' 10/s'":                                      "10/s",
		"default: |\n 100/m burst 200\n":                        "100/m burst 200",
		"default: [10/s, 1000/h burst 5]":                       "10/s, 1000/h burst 5",
		"default:\n  - 10/s # fast\n  - 1/d":                    "10/s, 1/d",
		"---\ndefault: 1/s\n...":                                "1/s",
		"\ufeffdefault: 1/s\r\nroutes:\r\n":                     "1/s",
		"routes:\nplans:\nkeys:\ndefault: 1/s":                  "1/s", // all commented out
		"keys: {192.0.2.7: &a [2/s, 3/s], '': *a}\ndefault: *a": "2/s, 3/s",
		"{\n\t\"default\": \"1\\/s\",\n\t\"routes\": {}\n}\n":   "1/s",
		`{"default":["1\u002fs"]}`:                              "1/s",
	} {
		c, err := Load([]byte(document))
		if err != nil {
			t.Errorf("%q: %v", document, err)
			continue
		}
		if got := text(c.rules.Load().everybody.limits); got != want {
			t.Errorf("%q: %s", document, got)
		}
	}
}

// A document that is made from rules is read as the same rules, in JSON and in YAML's block style.
func TestWhatIsWrittenIsRead(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		want, document := someRules(random)
		for style, text := range map[string]string{"JSON": toJSON(t, document), "YAML": toYAML(document, "")} {
			c, err := Load([]byte(text), WithKeyFunc(byHeaders), WithPlan(planOf))
			if err != nil {
				t.Fatalf("%s: %v\n%s", style, err, text)
			}
			got := c.rules.Load()
			got.mentions = nil
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: got %+v, want %+v\n%s", style, got, want, text)
			}
		}
	}
}

func someRules(random *rand.Rand) (*rules, map[string]any) {
	r := &rules{named: map[route]string{}}
	limits := func() ([]ratelimit.Limit, any) {
		var list []ratelimit.Limit
		var texts []any
		for range 1 + random.IntN(3) {
			limit := ratelimit.Limit{Capacity: 1 + random.IntN(1000), Refill: ratelimit.PerHour(1 + random.IntN(1000))}
			list, texts = append(list, limit), append(texts, limit.String())
		}
		if len(list) == 1 && random.IntN(2) == 0 {
			return list, texts[0]
		}
		return list, texts
	}
	routes := func() (map[route][]ratelimit.Limit, map[string]any) {
		m, document := map[route][]ratelimit.Limit{}, map[string]any{}
		for range random.IntN(4) {
			route := route{[]string{"", "GET", "POST"}[random.IntN(3)], []string{"/", "/a/:b", "/c/*d", "/:e/: f #g"}[random.IntN(4)]}
			m[route], document[route.String()] = limits()
			r.named[route] = route.String()
		}
		return m, document
	}
	sections := func() (map[string]*section, map[string]any) {
		m, document := map[string]*section{}, map[string]any{}
		for range random.IntN(4) {
			name := []string{"a", "null", "1", "x: y", "&z", "ä\"\\"}[random.IntN(6)]
			s := new(section)
			switch random.IntN(3) {
			case 0:
				s.limits, document[name] = limits()
			case 1:
				var within any
				s.limits, within = limits()
				document[name] = map[string]any{"default": within}
			default:
				var within any
				s.routes, within = routes()
				document[name] = map[string]any{"routes": within}
			}
			m[name] = s
		}
		return m, document
	}
	document := map[string]any{}
	r.everybody.limits, document["default"] = limits()
	r.everybody.routes, document["routes"] = routes()
	r.plans, document["plans"] = sections()
	r.keys, document["keys"] = sections()
	// A section may have been drawn twice. Only the routes of the later one remain named.
	r.named = map[route]string{}
	for _, s := range slices.Concat([]*section{&r.everybody}, valuesOf(r.plans), valuesOf(r.keys)) {
		for route := range s.routes {
			r.named[route] = route.String()
		}
	}
	return r, document
}

func valuesOf(sections map[string]*section) []*section {
	var values []*section
	for _, s := range sections {
		values = append(values, s)
	}
	return values
}

func toYAML(value any, indent string) string {
	switch value := value.(type) {
	case map[string]any:
		if len(value) == 0 {
			return " {}\n"
		}
		text := "\n"
		for name, member := range value {
			text += fmt.Sprintf("%s%q:%s", indent, name, toYAML(member, indent+"  "))
		}
		return text
	case []any:
		text := "\n"
		for _, item := range value {
			text += indent + "- " + item.(string) + " # a limit\n"
		}
		return text
	default:
		return " " + value.(string) + "\n"
	}
}

// FuzzLoad checks that a document is in force with all its limits valid, or is refused with lines that exist.
func FuzzLoad(f *testing.F) {
	for _, document := range []string{
		"default: 1/s", "{\"default\": [\"10/s\", \"1000/h burst 5\"]}", "default: &a [1/s]\nroutes: {GET /x: *a}",
		"default: 1/s\nplans: {p: {default: 1/s, routes: {/x: 1/s}}}\nkeys: {k: 1/s}", "default: &d [*d]", "? {? [",
		"plans: &p {p: *p}\nkeys: {<<: *p}", "--- !x\n---\n", "%TAG ! x\n---\n", "|0#\n", "default: 9223372036854775807/1ns", "0\n:", "{? {? ",
		"default: 1/s\r\n\u2028routes:\u0085", "\xff\xfed\x00",
	} {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		c := mustLoad(t, "default: 1/s", WithKeyFunc(byHeaders), WithPlan(planOf))
		before := c.rules.Load()
		if err := c.Replace(document); err != nil {
			if c.rules.Load() != before {
				t.Fatal("refused, but in force")
			}
			joined, ok := err.(interface{ Unwrap() []error })
			if !ok {
				t.Fatalf("%T", err)
			}
			for _, err := range joined.Unwrap() {
				var m *Mistake
				if errors.As(err, &m) && (m.Line < 0 || m.Line > 2+breaks(document) || m.Problem == "") {
					t.Fatalf("%#v", m)
				}
			}
			return
		}
		r := c.rules.Load()
		if len(r.everybody.limits) == 0 {
			t.Fatal("no default")
		}
		for _, s := range slices.Concat([]*section{&r.everybody}, valuesOf(r.plans), valuesOf(r.keys)) {
			all := [][]ratelimit.Limit{s.limits}
			for route, limits := range s.routes {
				if len(limits) == 0 || r.named[route] == "" || !strings.HasPrefix(route.pattern, "/") {
					t.Fatalf("route %v", route)
				}
				all = append(all, limits)
			}
			for _, limit := range slices.Concat(all...) {
				if err := limit.Validate(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// breaks returns how many line breaks a document can have: YAML has some of its own, and may be in UTF-16.
func breaks(document []byte) (n int) {
	for _, b := range document {
		if b == '\n' || b == '\r' || b == 0x85 || b == 0xa8 || b == 0xa9 || b == 0x28 || b == 0x29 {
			n++
		}
	}
	return n
}
