//go:build !unix

package redistest

import "syscall"

// Without such signals there is no redis-server either, so they are never sent.
const (
	sigStop = syscall.Signal(0)
	sigCont = syscall.Signal(0)
)
