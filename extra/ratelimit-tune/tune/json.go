package tune

import (
	"strings"
	"time"

	"github.com/valyala/fastjson"
)

// jsonParser reads lines that are objects of JSON.
type jsonParser struct {
	format string
	fields jsonFields
	unit   time.Duration // of durations that are numbers
	step   int64         // of the stamps, if numbers have lost their zeros at the end; 0 if they show it

	json fastjson.Parser
	text []byte // of the line's numbers
}

// jsonFields are the fields of a line. Of several paths the first that has a value counts.
type jsonFields struct {
	client, time, status, method, path, agent, duration, plan, cost []jsonPath
}

// jsonPath is the way to a field: by the whole name, or by the keys of nested objects.
type jsonPath struct {
	whole string
	keys  []string
}

func jsonPaths(names ...string) []jsonPath {
	var paths []jsonPath
	for _, name := range names {
		if name != "" {
			paths = append(paths, jsonPath{name, strings.Split(name, ".")})
		}
	}
	return paths
}

// newJSONParsers returns the parsers of JSON in the order in which they are tried.
func newJSONParsers(f Fields) []parser {
	caddy := &jsonParser{format: "caddy", unit: time.Second, step: microsecond, fields: jsonFields{
		client: jsonPaths("request.client_ip", "request.remote_ip"), time: jsonPaths("ts"), status: jsonPaths("status"),
		method: jsonPaths("request.method"), path: jsonPaths("request.uri"), agent: jsonPaths("request.headers.User-Agent"),
		duration: jsonPaths("duration"), // The stamp is of the end.
	}}
	traefik := &jsonParser{format: "traefik", unit: time.Nanosecond, fields: jsonFields{
		client: jsonPaths("ClientHost"), time: jsonPaths("StartUTC", "StartLocal"), status: jsonPaths("DownstreamStatus"),
		method: jsonPaths("RequestMethod"), path: jsonPaths("RequestPath"), agent: jsonPaths("request_User-Agent"),
	}}
	envoy := &jsonParser{format: "envoy", unit: time.Millisecond, fields: jsonFields{
		client: jsonPaths("downstream_remote_address", "downstream_direct_remote_address", "x_forwarded_for"),
		time:   jsonPaths("start_time"), status: jsonPaths("response_code"), method: jsonPaths("method"),
		path: jsonPaths("path"), agent: jsonPaths("user_agent"),
	}}
	parsers := []*jsonParser{caddy, traefik, envoy}
	if f.Client != "" && f.Time != "" {
		parsers = append([]*jsonParser{{format: "json"}}, parsers...) // Whoever names both means no other.
	}
	var all []parser
	for _, p := range parsers {
		p.override(f)
		all = append(all, p)
	}
	return all
}

// override puts the fields that are named in place of the format's.
func (p *jsonParser) override(f Fields) {
	duration, unit := f.duration()
	for _, field := range []struct {
		name string
		own  *[]jsonPath
	}{
		{f.Client, &p.fields.client}, {f.Time, &p.fields.time}, {f.Status, &p.fields.status}, {f.Method, &p.fields.method},
		{f.Path, &p.fields.path}, {f.Agent, &p.fields.agent}, {f.Plan, &p.fields.plan}, {f.Cost, &p.fields.cost},
		{duration, &p.fields.duration},
	} {
		if field.name != "" {
			*field.own = jsonPaths(field.name)
		}
	}
	if duration != "" {
		p.unit = unit
	}
}

func (p *jsonParser) name() string { return p.format }

func (p *jsonParser) parse(line []byte, e *entry) bool {
	if len(line) == 0 || line[0] != '{' {
		return false
	}
	object, err := p.json.ParseBytes(line)
	if err != nil {
		return false
	}
	p.text = p.text[:0]
	f := &p.fields
	v := values{
		client: p.value(object, f.client), time: p.value(object, f.time), status: p.value(object, f.status),
		method: p.value(object, f.method), path: p.value(object, f.path), agent: p.value(object, f.agent),
		duration: p.value(object, f.duration), plan: p.value(object, f.plan), cost: p.value(object, f.cost),
	}
	if !v.entry(e, p.unit) {
		return false
	}
	if p.step > 0 {
		e.step = p.step
	}
	return true
}

// value returns the text of a string or a number, or of the first of an array.
func (p *jsonParser) value(object *fastjson.Value, paths []jsonPath) []byte {
	for _, path := range paths {
		v := object.Get(path.whole)
		if v == nil && len(path.keys) > 1 {
			v = object.Get(path.keys...)
		}
		if v != nil && v.Type() == fastjson.TypeArray {
			v = v.Get("0")
		}
		if v == nil {
			continue
		}
		switch v.Type() {
		case fastjson.TypeString:
			if text := v.GetStringBytes(); len(text) > 0 {
				return text
			}
		case fastjson.TypeNumber:
			start := len(p.text)
			p.text = v.MarshalTo(p.text)
			return p.text[start:]
		}
	}
	return nil
}

// jsonKeys names the fields of a line of JSON, to be chosen from; nil if it is none.
func jsonKeys(line []byte) (keys []string) {
	var p fastjson.Parser
	v, err := p.ParseBytes(line)
	if err != nil || v.Type() != fastjson.TypeObject {
		return nil
	}
	v.GetObject().Visit(func(key []byte, _ *fastjson.Value) { keys = append(keys, string(key)) })
	return keys
}
