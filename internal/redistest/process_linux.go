package redistest

import (
	"os"
	"os/exec"
	"syscall"
	"unsafe"
)

// endWithParent kills the server when the test binary ends without cleaning up, as after a panic or a time-out.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// mapClock maps a new file of one page, to be shared with the server.
func mapClock(name string) (clock *clockPage, unmap func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	size := os.Getpagesize()
	if err := f.Truncate(int64(size)); err != nil {
		return nil, nil, err
	}
	page, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return (*clockPage)(unsafe.Pointer(&page[0])), func() { _ = syscall.Munmap(page) }, nil
}
