package limitconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/gin-gonic/gin"
	"go.yaml.in/yaml/v4"

	"github.com/gin-ratelimit/ratelimit"
)

// parser makes rules from a document, and goes on after each mistake. It reads nodes, not structs, because nodes know
// their lines, and because decoding into structs would report the first mistake only. What an alias names is read once and
// shared, or a small document could unfold to a huge one.
type parser struct {
	config   *Config
	rules    *rules
	mistakes mistakes

	sectionOf map[*yaml.Node]*section
	routesOf  map[*yaml.Node]map[route][]ratelimit.Limit
	limitsOf  map[*yaml.Node][]ratelimit.Limit
}

// once returns what was made from a node before, or makes it.
func once[T any](known map[*yaml.Node]T, node *yaml.Node, build func() T) T {
	made, ok := known[node]
	if !ok {
		made = build()
		known[node] = made
	}
	return made
}

func (c *Config) parse(document []byte) (*rules, error) {
	p := parser{
		config: c, rules: &rules{named: make(map[route]string)},
		sectionOf: make(map[*yaml.Node]*section), routesOf: make(map[*yaml.Node]map[route][]ratelimit.Limit),
		limitsOf: make(map[*yaml.Node][]ratelimit.Limit),
	}
	if root := p.load(document); root != nil {
		p.document(root)
	}
	if err := p.mistakes.err(); err != nil {
		return nil, err
	}
	return p.rules, nil
}

// load returns the root of a document, or nil after a mistake.
func (p *parser) load(document []byte) *yaml.Node {
	var root, second yaml.Node
	loader, err := yaml.NewLoader(bytes.NewReader(document))
	if err == nil {
		err = loader.Load(&root)
	}
	switch {
	case errors.Is(err, io.EOF):
		p.mistakes.add(1, "", `is empty: write at least "default: 100/m"`)
		return nil
	case err != nil:
		p.syntax(err)
		return nil
	}
	switch err := loader.Load(&second); {
	case err == nil:
		p.mistakes.add(second.Line, "", "a second document begins: put all into one")
	case !errors.Is(err, io.EOF):
		p.syntax(err)
	}
	return root.Content[0]
}

func (p *parser) syntax(err error) {
	if at := new(yaml.LoadError); errors.As(err, &at) {
		p.mistakes.add(at.Mark.Line, "", "%s", strings.TrimPrefix(at.ContextMsg+": "+at.Message, ": "))
		return
	}
	p.mistakes.add(0, "", "%v", err)
}

func (p *parser) document(root *yaml.Node) {
	hasDefault := false
	p.mapping(root, "", func(name string, at *yaml.Node, value *yaml.Node) {
		switch name {
		case "default":
			hasDefault = true
			p.rules.everybody.limits = p.limits(value, name)
		case "routes":
			p.rules.everybody.routes = p.routes(value, name)
		case "plans":
			p.rules.plans = p.sections(value, name, p.config.checkPlan)
		case "keys":
			p.rules.keys = p.sections(value, name, p.config.checkKey)
		default:
			p.mistakes.add(at.Line, "", "unknown field %q: want default, routes, plans or keys", clip(name))
		}
	})
	if !hasDefault && root.Kind == yaml.MappingNode {
		p.mistakes.add(root.Line, "default", `is missing: write the limits for all other requests, as in "default: 100/m"`)
	}
}

// sections reads plans or keys; check returns what is wrong with a name.
func (p *parser) sections(node *yaml.Node, field string, check func(name string) string) map[string]*section {
	sections := make(map[string]*section)
	p.mapping(node, field, func(name string, at *yaml.Node, value *yaml.Node) {
		all, field := field, member(field, name)
		switch problem := check(name); {
		case strings.HasPrefix(problem, isToken):
			p.mistakes.add(at.Line, all, "%s", problem) // Its name is a secret.
		case problem != "":
			p.mistakes.add(at.Line, field, "%s", problem)
		}
		sections[name] = p.section(value, field)
	})
	return sections
}

// section reads limits, or a mapping of default and routes.
func (p *parser) section(node *yaml.Node, field string) *section {
	node = resolve(node)
	return once(p.sectionOf, node, func() *section { return p.newSection(node, field) })
}

func (p *parser) newSection(node *yaml.Node, field string) *section {
	if node.Kind != yaml.MappingNode {
		return &section{limits: p.limits(node, field)}
	}
	s := new(section)
	p.mapping(node, field, func(name string, at *yaml.Node, value *yaml.Node) {
		switch name {
		case "default":
			s.limits = p.limits(value, field+".default")
		case "routes":
			s.routes = p.routes(value, field+".routes")
		default:
			p.mistakes.add(at.Line, field, "unknown field %q: want default or routes", clip(name))
		}
	})
	if len(node.Content) == 0 {
		p.mistakes.add(node.Line, field, `is empty: give limits, as in "100/m", or default and routes`)
	}
	return s
}

func (p *parser) routes(node *yaml.Node, field string) map[route][]ratelimit.Limit {
	node = resolve(node)
	return once(p.routesOf, node, func() map[route][]ratelimit.Limit { return p.newRoutes(node, field) })
}

func (p *parser) newRoutes(node *yaml.Node, field string) map[route][]ratelimit.Limit {
	routes := make(map[route][]ratelimit.Limit)
	p.mapping(node, field, func(name string, at *yaml.Node, value *yaml.Node) {
		field := member(field, name)
		limits := p.limits(value, field)
		route, problem := parseRoute(name)
		if problem != "" {
			p.mistakes.add(at.Line, field, "%s", problem)
			return
		}
		routes[route] = limits
		p.rules.named[route] = name
		p.rules.mentions = append(p.rules.mentions, mention{route, at.Line, field})
	})
	return routes
}

// limits reads a limit or a list of them; the result is nil after a mistake.
func (p *parser) limits(node *yaml.Node, field string) []ratelimit.Limit {
	node = resolve(node)
	return once(p.limitsOf, node, func() []ratelimit.Limit { return p.newLimits(node, field) })
}

func (p *parser) newLimits(node *yaml.Node, field string) []ratelimit.Limit {
	if node.Kind != yaml.SequenceNode {
		if limit, ok := p.limit(node, field); ok {
			return []ratelimit.Limit{limit}
		}
		return nil
	}
	p.untagged(node, field)
	if len(node.Content) == 0 {
		p.mistakes.add(node.Line, field, `is empty: give at least one limit, as in ["100/m"]`)
		return nil
	}
	limits := make([]ratelimit.Limit, len(node.Content))
	valid := true
	for i, item := range node.Content {
		var ok bool
		limits[i], ok = p.limit(resolve(item), fmt.Sprintf("%s[%d]", field, i))
		valid = valid && ok
	}
	if !valid {
		return nil
	}
	return limits
}

func (p *parser) limit(node *yaml.Node, field string) (limit ratelimit.Limit, ok bool) {
	p.untagged(node, field)
	if node.Kind != yaml.ScalarNode || isNull(node) {
		p.mistakes.add(node.Line, field, `is %s: want a limit, as in "10/s" or "100/m burst 200"`, kind(node))
		return limit, false
	}
	if err := limit.UnmarshalText([]byte(node.Value)); err != nil {
		p.mistakes.add(node.Line, field, "%s", strings.TrimPrefix(err.Error(), "ratelimit: "))
		return limit, false
	}
	return limit, true
}

// mapping visits the members of a mapping, each name once. An empty value has none.
func (p *parser) mapping(node *yaml.Node, field string, visit func(name string, at, value *yaml.Node)) {
	node = resolve(node)
	p.untagged(node, field)
	if isNull(node) && field != "" {
		return
	}
	if node.Kind != yaml.MappingNode {
		p.mistakes.add(node.Line, field, "is %s: want a mapping of names", kind(node))
		return
	}
	lines := make(map[string]int)
	for i := 0; i+1 < len(node.Content); i += 2 {
		at, value := node.Content[i], node.Content[i+1]
		name := resolve(at)
		p.untagged(name, field)
		switch first, twice := lines[name.Value]; {
		case name.Kind != yaml.ScalarNode:
			p.mistakes.add(at.Line, field, "a name is %s: want text", kind(name))
		case name.Tag == "!!merge":
			p.mistakes.add(at.Line, field, `"<<" is not supported: write the fields out, or give a whole value by its alias`)
		case twice:
			p.mistakes.add(at.Line, member(field, name.Value), "is given twice, first in line %d: remove one", first)
		default:
			lines[name.Value] = at.Line
			visit(name.Value, at, value)
		}
	}
}

func (p *parser) untagged(node *yaml.Node, field string) {
	if node.Style&yaml.TaggedStyle != 0 {
		p.mistakes.add(node.Line, field, "the tag %s is not supported: remove it", clip(node.Tag))
	}
}

// parseRoute reads "GET /users/:id" or "/users/:id".
func parseRoute(text string) (r route, problem string) {
	method, pattern := "", text
	if !strings.HasPrefix(text, "/") {
		method, pattern, _ = strings.Cut(text, " ")
	}
	switch {
	case !strings.HasPrefix(pattern, "/") || method == "" && pattern != text:
		return r, `want a route as it is registered, "GET /users/:id", or "/users/:id" for every method`
	case method == "ANY":
		return r, fmt.Sprintf("ANY is no method: write %q for every method", clip(pattern))
	case strings.Contains(method, ","):
		first, _, _ := strings.Cut(method, ",")
		return r, fmt.Sprintf("one method a line: %q and so on, or %q for every method", clip(first+" "+pattern), clip(pattern))
	case method != strings.ToUpper(method):
		return r, fmt.Sprintf("methods are written in capitals: %q", clip(strings.ToUpper(method)+" "+pattern))
	case strings.ContainsFunc(method, func(c rune) bool { return c < 'A' || c > 'Z' }):
		return r, fmt.Sprintf(`%q is no method: want capital letters, as in "GET /users/:id"`, clip(method))
	case strings.Contains(pattern, "?"):
		path, _, _ := strings.Cut(pattern, "?")
		return r, fmt.Sprintf("a route has no query: write %q", clip(path))
	case strings.TrimSpace(pattern) != pattern:
		return r, fmt.Sprintf("spaces belong to the route: write %q", clip(strings.TrimSpace(pattern)))
	}
	return route{method, pattern}, ""
}

func (c *Config) checkPlan(name string) string {
	switch {
	case c.plan == nil:
		return "no function returns a request's plan: load with WithPlan"
	case name == "":
		return `"" is requests without a plan: they have the default and routes of the document`
	case !c.knowsPlan(name):
		return fmt.Sprintf("there is no such plan: WithPlan names %q", c.planNames)
	}
	return ""
}

// checkKey finds keys that no request can have: under ratelimit.ByClientIP, text that is no address; under
// ratelimit.ByBearerToken, a token, because requests are compared by its digest. What another KeyFunc returns is unknown.
func (c *Config) checkKey(name string) string {
	if name == "" {
		return ""
	}
	if c.customKey {
		if digest := ratelimit.BearerKey(name); !looksLike(name, digest) && c.keyOfToken(name) == digest {
			return fmt.Sprintf(isToken+" %q, which ratelimit.BearerKey returns, so that the document holds no secret", digest)
		}
		return ""
	}
	address := strings.TrimSuffix(name, "/64")
	peer := &http.Request{RemoteAddr: net.JoinHostPort(address, "0")}
	switch key := ratelimit.ByRemoteIP(&gin.Context{Request: peer}); key {
	case name:
		return ""
	case "":
		return `want a client's address, as in "192.0.2.7" or "2001:db8::/64"; for other keys load with WithKeyFunc, for networks see extra/iplist`
	default:
		return fmt.Sprintf("the client's key is %q: write that", key)
	}
}

const isToken = "a token is no key, because requests are compared by its digest: write"

// looksLike reports whether text may be another digest of the same kind.
func looksLike(text, digest string) bool {
	return len(text) == len(digest) && !strings.ContainsFunc(text, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_'
	})
}

// keyOfToken is the key of a request with a bearer token, "" if the KeyFunc panics on it.
func (c *Config) keyOfToken(token string) (key string) {
	defer func() {
		if recover() != nil {
			key = ""
		}
	}()
	return c.key(&gin.Context{Request: &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/"}, Header: http.Header{"Authorization": {"Bearer " + token}},
	}})
}

// resolve follows an alias.
func resolve(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.Tag == "!!null"
}

// kind describes a node in words.
func kind(node *yaml.Node) string {
	switch {
	case isNull(node):
		return "empty"
	case node.Kind == yaml.MappingNode:
		return "a mapping"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", clip(node.Value))
	}
}

// member is the name of a field in a mapping whose names the user chooses.
func member(field, name string) string {
	if field == "" {
		return clip(name)
	}
	return fmt.Sprintf("%s[%q]", field, clip(name))
}
