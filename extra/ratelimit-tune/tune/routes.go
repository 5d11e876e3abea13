package tune

import (
	"bytes"
	"hash/maphash"
)

// maxRoutes bounds the routes. Scanners make up paths without end; what is beyond is one route.
const maxRoutes = 10_000

// longestPath bounds the paths, or their first segments, that are kept.
const longestPath = 256

// OtherRoutes is the route of requests after 10,000 others.
const OtherRoutes = "(other)"

// routes finds the index of a request's route.
type routes struct {
	trace *Trace
	name  func(method, path []byte) string // nil: the first segment
	index map[string]int32
	seed  maphash.Seed
	late  [1 << 12]cachedRoute // by a hash of the method and path, or of the segment
}

type cachedRoute struct {
	method, path string
	route        int32
	known        bool
}

func newRoutes(t *Trace, name func(method, path []byte) string) *routes {
	return &routes{trace: t, name: name, index: make(map[string]int32), seed: maphash.MakeSeed()}
}

func (r *routes) of(method, path []byte) int32 {
	if r.name == nil {
		method, path = nil, firstSegment(withoutQuery(path))
	} else {
		path = withoutQuery(path)
	}
	if len(path) > longestPath {
		return r.named(method, path)
	}
	late := &r.late[maphash.Bytes(r.seed, path)%uint64(len(r.late))]
	if !late.known || string(path) != late.path || string(method) != late.method {
		*late = cachedRoute{string(method), string(path), r.named(method, path), true}
	}
	return late.route
}

// named finds the route by its name.
func (r *routes) named(method, path []byte) int32 {
	var name string
	if r.name != nil {
		name = r.name(method, path)
	} else {
		name = string(path[:min(len(path), longestPath)])
	}
	if _, known := r.index[name]; !known && len(r.index) >= maxRoutes {
		name = OtherRoutes
	}
	route, known := r.index[name]
	if !known {
		route = int32(len(r.trace.Routes))
		r.index[name] = route
		r.trace.Routes = append(r.trace.Routes, printable(name))
	}
	return route
}

// firstSegment returns "/a" of "/a/b".
func firstSegment(path []byte) []byte {
	if len(path) > 1 && path[0] == '/' {
		if end := bytes.IndexByte(path[1:], '/'); end >= 0 {
			return path[:end+1]
		}
	}
	return path
}
