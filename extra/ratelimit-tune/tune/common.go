package tune

import (
	"bytes"
	"net/netip"
)

// commonParser reads lines of the Common and the Combined Log Format, also with what nginx and Traefik put behind them.
type commonParser struct {
	extent commonFormat // the last of these formats that counts; what is behind it is not read
	bytes  bool         // the size of the answer is the cost
	seen   commonFormat // the last that a line had
	stamp  []byte       // of the line before: neighbors share it; empty if there is none
	tick   int64
	step   int64
}

// commonFormat says how much follows the status and the size.
type commonFormat int

const (
	common   commonFormat = iota
	combined              // referer and user agent
	nginx                 // $request_time, $msec or both
	traefik               // a count, router, server and duration
)

func (p *commonParser) name() string {
	return [...]string{"common", "combined", "nginx", "traefik"}[p.seen]
}

func (p *commonParser) parse(line []byte, e *entry) bool {
	space := bytes.IndexByte(line, ' ')
	if space < 1 {
		return false
	}
	e.client = line[:space]
	rest := line[space+1:]
	if len(rest) > 0 && rest[0] != '-' {
		// Apache's vhost_combined has the server's name first. Nobody's identity is an address.
		if second, _, ok := bytes.Cut(rest, []byte{' '}); ok && isAddress(second) {
			e.client = second
		}
	}
	open := bytes.IndexByte(rest, '[')
	if open < 0 {
		return false
	}
	rest = rest[open+1:]
	const length = len("02/Jan/2006:15:04:05 -0700")
	end := length
	if len(rest) <= end || rest[end] != ']' {
		if end = bytes.IndexByte(rest, ']'); end < 0 {
			return false
		}
	}
	if stamp := rest[:end]; len(stamp) == 0 || !bytes.Equal(stamp, p.stamp) {
		tick, step, ok := parseStamp(stamp)
		if !ok {
			return false
		}
		p.stamp, p.tick, p.step = append(p.stamp[:0], stamp...), tick, step
	}
	e.tick, e.step = p.tick, p.step
	rest, ok := p.request(rest[end+1:], e)
	if !ok {
		return false
	}
	size, rest, _ := bytes.Cut(rest, []byte{' '})
	if p.bytes {
		if bytes.Equal(size, []byte{'-'}) {
			e.cost = 0
		} else if e.cost, ok = costTokens(size); !ok {
			return false
		}
	}
	if len(rest) > 0 && p.extent >= combined {
		p.behind(rest, e)
	}
	return true
}

// request reads the quoted request and the status, and returns what follows. Servers of old did not escape quotes in the
// request, so its end is the first quote that a status follows.
func (p *commonParser) request(text []byte, e *entry) (rest []byte, ok bool) {
	if len(text) < 2 || text[0] != ' ' || text[1] != '"' {
		return nil, false
	}
	text = text[2:]
	for end := 0; ; end++ {
		quote := bytes.IndexByte(text[end:], '"')
		if quote < 0 {
			return nil, false
		}
		end += quote
		rest = text[end+1:]
		if len(rest) < 4 || rest[0] != ' ' || len(rest) > 4 && rest[4] != ' ' {
			continue
		}
		if status, ok := statusOf(rest[1:4]); ok {
			e.status = status
			e.method, e.path = methodAndPath(text[:end])
			return rest[min(5, len(rest)):], true
		}
	}
}

// statusOf reads three digits.
func statusOf(text []byte) (status int16, ok bool) {
	if len(text) != 3 || !digit(text[0]) || !digit(text[1]) || !digit(text[2]) {
		return 0, false
	}
	return int16(text[0]-'0')*100 + int16(text[1]-'0')*10 + int16(text[2]-'0'), true
}

// methodAndPath splits "GET /a HTTP/1.1". A request of HTTP/0.9 has no protocol.
func methodAndPath(request []byte) (method, path []byte) {
	method, path, ok := bytes.Cut(request, []byte{' '})
	if !ok {
		return nil, nil
	}
	if end := bytes.LastIndexByte(path, ' '); end >= 0 {
		path = path[:end]
	}
	return method, path
}

// behind reads what follows the size: referer, user agent, and fields that nginx and Traefik add.
func (p *commonParser) behind(text []byte, e *entry) {
	_, text, ok := quoted(text)
	if !ok {
		return
	}
	agent, text, ok := quoted(text)
	if !ok {
		return
	}
	e.agent = agent
	p.seen = max(p.seen, combined)
	if len(text) == 0 || p.extent < nginx {
		return
	}
	if bytes.HasSuffix(text, []byte("ms")) && p.extent == traefik && digit(text[max(0, len(text)-3)]) {
		p.seen = traefik // It stamps the begin.
		return
	}
	took := false
	for len(text) > 0 {
		if text[0] == '"' {
			if _, text, ok = quoted(text); !ok {
				return
			}
			continue
		}
		var field []byte
		field, text, _ = bytes.Cut(text, []byte{' '})
		ticks, isSpan, ok := nginxTime(field)
		if !ok {
			continue
		}
		p.seen = max(p.seen, nginx)
		if !isSpan {
			e.tick, e.step = ticks, millisecond
		} else if !took {
			e.took, took = ticks, true // What follows the first are times of upstream servers.
		}
	}
}

// nginxTime reads $request_time or $msec: seconds with exactly three decimals, by themselves or as in "rt=0.012".
func nginxTime(field []byte) (ticks int64, isSpan, ok bool) {
	if name, value, named := bytes.Cut(field, []byte{'='}); named {
		switch string(name) {
		case "rt", "request_time", "msec":
			field = value
		default:
			return 0, false, false
		}
	}
	point := len(field) - len(".000")
	if point < 1 || point > 11 || field[point] != '.' {
		return 0, false, false
	}
	ticks, _, ok = unixStamp(field)
	return ticks, point < 9, ok
}

// quoted cuts a quoted string off, and the space behind it. A backslash escapes a quote.
func quoted(text []byte) (content, rest []byte, ok bool) {
	if len(text) < 2 || text[0] != '"' {
		return nil, nil, false
	}
	for end := 1; end < len(text); end++ {
		quote := bytes.IndexByte(text[end:], '"')
		if quote < 0 {
			return nil, nil, false
		}
		end += quote
		before := text[1:end]
		backslashes := len(before) - len(bytes.TrimRight(before, `\`))
		if backslashes%2 == 0 && (end+1 == len(text) || text[end+1] == ' ') {
			return before, text[min(end+2, len(text)):], true
		}
	}
	return nil, nil, false
}

func isAddress(text []byte) bool {
	_, err := netip.ParseAddr(string(text))
	return err == nil
}
