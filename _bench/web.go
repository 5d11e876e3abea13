package main

import (
	"net/http"
	"net/http/httptest"
)

const webBatch = 16 // requests of some 500 ns

// webCases are the tables: what a request is counted against.
var webCases = []struct {
	name, title string
	by          address
}{
	{"client", "the client's address (ByClientIP)", clientAddress},
	{"peer", "the peer's address (ByRemoteIP)", peerAddress},
}

func webScenarios() (all []scenario) {
	for _, c := range webCases {
		has := func(p peer) bool { return p.web != nil && (c.by == peerAddress || !p.direct) }
		all = append(all, scenario{"gin/" + c.name, has, func(p peer, o options) metrics {
			m := metrics{}
			withProcs(1, func() {
				m.perRequest("gin/"+c.name+"/allowed", p.web(roomy, c.by), allowed, o)
				if p.kind != floor { // A floor refuses nothing.
					m.perRequest("gin/"+c.name+"/refused", p.web(tight, c.by), refused, o)
				}
			})
			return m
		}})
	}
	return all
}

// perRequest measures requests of one client.
func (m metrics) perRequest(name string, handler http.Handler, want verdict, o options) {
	take := requests(handler, httptest.NewRequest(http.MethodGet, "/", nil)) // From 192.0.2.1:1234.
	take("")
	l := newLoad(1, webBatch, newKeys(1, false), same(take))
	l.lasting(o.warmUp())
	l.verdicts()
	_, objects := allocated(func() { m.quietly(name, l, o) })
	t := l.verdicts()
	m.check(name, t, want)
	m[name+"/objects"] = objects / float64(t.sum())
}

// requests is a client that sends the same request again and again, and reads the status of the response.
func requests(handler http.Handler, r *http.Request) taker {
	w := &writer{header: http.Header{}}
	return func(string) verdict {
		clear(w.header)
		handler.ServeHTTP(w, r)
		switch w.status {
		case http.StatusOK:
			return allowed
		case http.StatusTooManyRequests:
			return refused
		default:
			return failed
		}
	}
}

// writer is a response writer that is reused, as servers reuse their buffers.
type writer struct {
	header http.Header
	status int
}

func (w *writer) Header() http.Header         { return w.header }
func (w *writer) WriteHeader(status int)      { w.status = status }
func (w *writer) Write(b []byte) (int, error) { return len(b), nil }

func webTables() (tables []table) {
	for _, c := range webCases {
		name := "gin/" + c.name
		tables = append(tables, table{"Gin: one request, by " + c.title,
			"On 1 core, from one client, into a response writer that is used again; each library with the headers it sends by default.", []column{
				{title: "allowed, ns", metric: name + "/allowed", format: "%.0f", ratio: true},
				{title: "allocations", metric: name + "/allowed/objects", format: "%.1f"},
				{title: "refused, ns", metric: name + "/refused", format: "%.0f", ratio: true},
				{title: "allocations", metric: name + "/refused/objects", format: "%.1f"},
			}})
	}
	return tables
}
