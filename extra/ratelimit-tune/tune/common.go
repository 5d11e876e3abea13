package tune

import (
	"bytes"
	"time"
)

// commonParser reads lines of the Common and the Combined Log Format.
type commonParser struct {
	stamp []byte // of the line before: neighbors share it, and parsing a time is the slowest part of a line
	tick  int64
}

// commonLine is what a replay needs of a line. The host is part of the line that was parsed.
type commonLine struct {
	host   []byte
	status int16
	tick   int64
}

func (p *commonParser) parse(line []byte) (l commonLine, ok bool) {
	space := bytes.IndexByte(line, ' ')
	open := bytes.IndexByte(line, '[')
	if space < 1 || open < space {
		return l, false
	}
	const layout = "02/Jan/2006:15:04:05 -0700"
	rest := line[open+1:]
	if len(rest) < len(layout)+1 || rest[len(layout)] != ']' {
		return l, false
	}
	if stamp := rest[:len(layout)]; !bytes.Equal(stamp, p.stamp) {
		at, err := time.Parse(layout, string(stamp))
		if err != nil {
			return l, false
		}
		p.stamp, p.tick = append(p.stamp[:0], stamp...), at.UnixMicro()
	}
	status, ok := statusOf(rest[len(layout)+1:])
	return commonLine{line[:space], status, p.tick}, ok
}

// statusOf finds the status behind the quoted request. Servers of old did not escape quotes in the request, so its end
// is the first quote that a status follows.
func statusOf(rest []byte) (status int16, ok bool) {
	if !bytes.HasPrefix(rest, []byte(` "`)) {
		return 0, false
	}
	for rest = rest[2:]; ; {
		quote := bytes.IndexByte(rest, '"')
		if quote < 0 {
			return 0, false
		}
		rest = rest[quote+1:]
		if len(rest) >= 4 && rest[0] == ' ' && digit(rest[1]) && digit(rest[2]) && digit(rest[3]) && (len(rest) == 4 || rest[4] == ' ') {
			return int16(rest[1]-'0')*100 + int16(rest[2]-'0')*10 + int16(rest[3]-'0'), true
		}
	}
}

func digit(b byte) bool { return b >= '0' && b <= '9' }
