package tune

import (
	"bytes"
	"strconv"
	"time"
)

// ginParser reads what gin.Logger writes, with colors or without:
//
//	[GIN] 2006/01/02 - 15:04:05 | 200 |    1.2ms |    192.0.2.7 | GET     "/a"
//
// The stamp is of the end of the request and has no zone: it is in this machine's, as TZ sets it.
type ginParser struct {
	plain []byte // the line without colors
}

func (*ginParser) name() string { return "gin" }

func (p *ginParser) parse(line []byte, e *entry) bool {
	start := bytes.Index(line, []byte("[GIN] "))
	if start < 0 {
		return false
	}
	line = line[start+len("[GIN] "):]
	if bytes.IndexByte(line, '\x1b') >= 0 {
		p.plain = appendPlain(p.plain[:0], line)
		line = p.plain
	}
	var columns [4][]byte
	for i := range columns {
		column, rest, ok := bytes.Cut(line, []byte{'|'})
		if !ok {
			return false
		}
		columns[i], line = bytes.TrimSpace(column), rest
	}
	stamp, status, latency, client := columns[0], columns[1], columns[2], columns[3]
	if len(stamp) != len("2006/01/02 - 15:04:05") || string(stamp[10:13]) != " - " || stamp[4] != '/' || stamp[7] != '/' || len(client) == 0 {
		return false
	}
	var ok [3]bool
	e.tick, ok[0] = civil(four(stamp), two(stamp[5:]), two(stamp[8:]), stamp[13:], time.Local)
	e.status, ok[1] = statusOf(status)
	e.took, ok[2] = durationTicks(latency, time.Second)
	e.client, e.step = client, second
	method, path, found := bytes.Cut(bytes.TrimSpace(line), []byte{' '})
	if !found {
		return ok == [3]bool{true, true, true}
	}
	e.method = method
	if path = bytes.TrimLeft(path, " "); bytes.IndexByte(path, '\\') < 0 {
		e.path = bytes.Trim(path, `"`)
	} else if unquoted, err := strconv.Unquote(string(path)); err == nil {
		e.path = []byte(unquoted)
	}
	return ok == [3]bool{true, true, true}
}

// appendPlain leaves out the escape sequences that color text: ESC [ … m.
func appendPlain(plain, text []byte) []byte {
	for {
		before, rest, found := bytes.Cut(text, []byte("\x1b["))
		plain = append(plain, before...)
		if !found {
			return plain
		}
		_, text, found = bytes.Cut(rest, []byte{'m'})
		if !found {
			return plain
		}
	}
}
