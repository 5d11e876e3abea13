package tune

import (
	"bytes"
	"net/netip"
	"strings"
	"time"
)

// Fields are the names of fields, as in "ts" or, within objects of JSON, "request.remote_ip". In the formats that are
// known they replace the names of that format. Client and Time are what JSON and CSV of other kinds need.
type Fields struct {
	Client, Time, Status, Method, Path, Agent, Plan string
	// Duration makes Time the end of a request, which began so much earlier. A number is in seconds, unless a unit
	// follows the name, as in "elapsed:ms".
	Duration string
	// Cost is a number of tokens, of which parts count as whole ones. In the Common Log Format and what is like it, only
	// "bytes" is known: the size of the answer.
	Cost string
}

// duration splits the unit off the name of the field.
func (f *Fields) duration() (name string, unit time.Duration) {
	name, suffix, ok := cutLast(f.Duration, ":")
	if unit, err := time.ParseDuration("1" + suffix); ok && err == nil {
		return name, unit
	}
	return f.Duration, time.Second
}

func cutLast(text, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(text, separator); i >= 0 {
		return text[:i], text[i+len(separator):], true
	}
	return text, "", false
}

// values are the texts of a line's fields, empty where there are none.
type values struct {
	client, time, status, method, path, agent, duration, plan, cost []byte
}

// entry puts the values into e. It needs a client and a time.
func (v *values) entry(e *entry, unit time.Duration) (ok bool) {
	e.client, e.method, e.path, e.agent, e.plan = withoutPort(v.client), v.method, v.path, v.agent, v.plan
	e.status, _ = statusOf(v.status)
	if e.tick, e.step, ok = parseStamp(v.time); !ok || len(e.client) == 0 {
		return false
	}
	if len(v.duration) > 0 && !bytes.Equal(v.duration, []byte{'-'}) {
		if e.took, ok = durationTicks(v.duration, unit); !ok {
			return false
		}
	}
	if len(v.cost) > 0 {
		if e.cost, ok = costTokens(v.cost); !ok {
			return false
		}
	}
	return true
}

// withoutPort returns the address of "192.0.2.7:1234" and "[2001:db8::7]:1234", and else the text.
func withoutPort(text []byte) []byte {
	colon := bytes.LastIndexByte(text, ':')
	if colon < 0 {
		return text
	}
	if _, err := netip.ParseAddrPort(string(text)); err != nil {
		return text
	}
	return bytes.Trim(text[:colon], "[]")
}
