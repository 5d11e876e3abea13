package tune

import (
	"bytes"
	"time"
)

// csvParser reads lines of fields between commas, semicolons or tabs, which a first line names. A field in quotes may
// have the separator in it and quotes, doubled; a line break it may not.
type csvParser struct {
	separator                                                       byte
	columns                                                         int
	unit                                                            time.Duration
	client, time, status, method, path, agent, duration, plan, cost int // columns; -1 if there is none

	fields [][]byte
}

// newCSVParser takes the columns from the header. It needs those of the client and the time.
func newCSVParser(header []byte, f Fields) *csvParser {
	duration, unit := f.duration()
	for _, separator := range []byte{',', ';', '\t'} {
		p := &csvParser{separator: separator, unit: unit}
		if !p.split(header) {
			continue
		}
		p.columns = len(p.fields)
		for _, field := range []struct {
			name   string
			column *int
		}{
			{f.Client, &p.client}, {f.Time, &p.time}, {f.Status, &p.status}, {f.Method, &p.method}, {f.Path, &p.path},
			{f.Agent, &p.agent}, {f.Plan, &p.plan}, {f.Cost, &p.cost}, {duration, &p.duration},
		} {
			*field.column = p.column(field.name)
		}
		if p.client >= 0 && p.time >= 0 {
			return p
		}
	}
	return nil
}

func (p *csvParser) column(name string) int {
	for i, field := range p.fields {
		if name != "" && string(bytes.TrimSpace(field)) == name {
			return i
		}
	}
	return -1
}

func (*csvParser) name() string { return "csv" }

func (p *csvParser) parse(line []byte, e *entry) bool {
	if !p.split(line) || len(p.fields) != p.columns {
		return false
	}
	v := values{
		client: p.value(p.client), time: p.value(p.time), status: p.value(p.status), method: p.value(p.method),
		path: p.value(p.path), agent: p.value(p.agent), duration: p.value(p.duration), plan: p.value(p.plan), cost: p.value(p.cost),
	}
	return v.entry(e, p.unit)
}

func (p *csvParser) value(column int) []byte {
	if column < 0 {
		return nil
	}
	return p.fields[column]
}

// split puts the fields of a line into p.fields.
func (p *csvParser) split(line []byte) bool {
	p.fields = p.fields[:0]
	for {
		if len(line) == 0 || line[0] != '"' {
			end := bytes.IndexByte(line, p.separator)
			if end < 0 {
				p.fields = append(p.fields, line)
				return true
			}
			p.fields, line = append(p.fields, line[:end]), line[end+1:]
			continue
		}
		field, rest, ok := cutQuotes(line[1:])
		p.fields = append(p.fields, field)
		switch {
		case !ok:
			return false
		case len(rest) == 0:
			return true
		case rest[0] != p.separator:
			return false
		}
		line = rest[1:]
	}
}

// cutQuotes returns a field up to its closing quote, with doubled quotes made single.
func cutQuotes(text []byte) (field, rest []byte, ok bool) {
	doubled := false
	for end := 0; end < len(text); end++ {
		if text[end] != '"' {
			continue
		}
		if end+1 < len(text) && text[end+1] == '"' {
			doubled = true
			end++
			continue
		}
		field = text[:end]
		if doubled {
			field = bytes.ReplaceAll(field, []byte(`""`), []byte(`"`))
		}
		return field, text[end+1:], true
	}
	return nil, nil, false
}
