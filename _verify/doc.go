// Package verify breaks things on purpose and shows what the library does: 44 cases of faults, abuse and bad
// input, with real Redis processes, real networks that fail, and several client processes at a time; then models,
// linearizability, memory over millions of keys, and mutants of the library that its tests must notice.
//
//	go test -count=1 -timeout 30m .    # all of it; writes ../RELIABILITY.md
//	go test -count=1 -short -race .    # a part of it, in a few minutes; writes nothing
package verify
