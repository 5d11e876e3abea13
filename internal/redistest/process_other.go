//go:build !linux

package redistest

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
)

// endWithParent does nothing: only Linux ends a process with its parent.
func endWithParent(*exec.Cmd) {}

func mapClock(string) (*clockPage, func(), error) {
	return nil, nil, fmt.Errorf("LD_PRELOAD on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
