package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
	"github.com/redis/go-redis/v9"
)

// server is a redis-server process.
type server struct {
	address, version string
	close            func()
}

func startRedis() (*server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, err
	}
	h := &host{}
	s := redistest.Start(h)
	client := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer client.Close()
	info, err := client.InfoMap(context.Background(), "server").Result()
	if err != nil {
		h.close()
		return nil, err
	}
	return &server{s.Addr, info["Server"]["redis_version"], h.close}, nil
}

// host is the part of a testing.TB that redistest needs, for a program. Where a test would end, the program ends.
type host struct {
	testing.TB
	cleanups []func()
}

func (h *host) close() {
	for len(h.cleanups) > 0 {
		last := len(h.cleanups) - 1
		cleanup := h.cleanups[last]
		h.cleanups = h.cleanups[:last]
		cleanup()
	}
}

func (h *host) Helper()                 {}
func (h *host) Failed() bool            { return false }
func (h *host) Cleanup(f func())        { h.cleanups = append(h.cleanups, f) }
func (h *host) Logf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (h *host) Skip(a ...any)           { h.Fatal(a...) }
func (h *host) Fatal(a ...any)          { h.Fatalf("%s", fmt.Sprint(a...)) }
func (h *host) Fatalf(f string, a ...any) {
	h.Logf(f, a...)
	h.close()
	os.Exit(1)
}

func (h *host) TempDir() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
