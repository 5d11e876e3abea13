package storetest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/gin-ratelimit/ratelimit"
)

var keyCases = []testCase{
	{"no two keys share a bucket", keysAreInjective},
	{"a key is copied", keyIsCopied},
}

// hardKeys are keys that stores have confused, cut, split or failed on.
func hardKeys() []string {
	keys := []string{
		"", " ", "  ", "a", "A", "ab", "abc", "a ", " a", "a\n", "a\r\n", "\r\n", "\n", "\t", "a\x00", "a\x00b", "\x00", "\x00\x00",
		"a:b", "a::b", ":", "::", "a:", ":a", "a{b}", "a{b}c", "{a}b", "{", "}", "{}", "}{", "{{a}}", "a%7Bb%7D", "a%7bb%7d", "%7Ba%7Db",
		"%", "%%", "%25", "%2525", "%00", "%0", "a%20", "a%0D%0A", "+", "a+b", "a b", "a/b", "a\\b", "a'b", `a"b`, "a*", "a?", "[a]",
		"\xff", "\xfe", "\xff\xfe", "\xc3", "\xc3\x28", "é", "e\u0301", "\xe9", "ÿ", "\u200b", "日本", "\U0001f600", "\xf0\x9f\x98", "�",
		"192.0.2.1", "192.0.2.10", "2001:db8::/64", "2001:db8::1/64", "GET /a", "GET /a/", "nil", "null", "0", "00", "-0",
		"*1\r\n$4\r\nPING\r\n", "$-1\r\n", "..", "../a", "a\x1b[31m", "__proto__", "\u2028", "\u202ea",
	}
	for _, n := range []int{15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 512, 1024, 65535, 65536, 1 << 20} {
		long := strings.Repeat("x", n-1)
		keys = append(keys, long+"a", long+"b", "b"+long) // they differ at the very end, or at the very beginning
	}
	// Stores that put short keys into words must not mix up bytes and lengths.
	for _, a := range "\x00\x01\x7f" {
		for _, b := range []string{"\x00", "\x01", "\x7f", "\x80", "\xff"} {
			keys = append(keys, "\x80"+string(a)+b, b+string(a)+"\xff", b+b+string(a), string(a)+b)
		}
	}
	for _, n := range []int{7, 8, 9, 15, 16, 17} {
		for i := range n {
			key := bytes.Repeat([]byte{'k'}, n)
			key[i] = 0xeb // 'k' with its highest bit
			keys = append(keys, string(key))
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// A different number of tokens is taken from each key, and each must then lack as many.
func keysAreInjective(s *session) {
	l := limit(1000, ratelimit.Every(day))
	keys := hardKeys()
	for i, key := range keys {
		s.want(fmt.Sprintf("%q is new", clip(key)), s.take(key, i+1, l), allowedBy(l, 1000-(i+1), time.Duration(i+1)*day))
	}
	for i, key := range keys {
		s.want(fmt.Sprintf("%q", clip(key)), s.look(key, l), allowedBy(l, 1000-(i+1), time.Duration(i+1)*day))
	}
	for i, key := range keys {
		if i%2 == 0 {
			s.reset(key)
		}
	}
	for i, key := range keys {
		left := 1000 - (i + 1)
		if i%2 == 0 {
			left = 1000
		}
		s.want(fmt.Sprintf("%q after resets", clip(key)), s.look(key, l), allowedBy(l, left, time.Duration(1000-left)*day))
	}
}

// A caller may build its keys in a buffer that it reuses.
func keyIsCopied(s *session) {
	l, other := limit(5, ratelimit.PerHour(1)), limit(50, ratelimit.PerHour(1))
	const keys = 100
	buffer := make([]byte, 64)
	for _, limits := range [][]ratelimit.Limit{{l}, {l, other}} {
		for _, name := range []string{"client-%02d", "a client with a long name-%02d"} {
			name += fmt.Sprintf("-%d", len(limits))
			lent := func(i int, use func(key string) error) {
				n := copy(buffer, fmt.Sprintf(name, i))
				if err := use(unsafe.String(&buffer[0], n)); err != nil {
					s.t.Fatal(err)
				}
				for i := range buffer {
					buffer[i] = '#'
				}
			}
			for i := range keys {
				lent(i, func(key string) error {
					_, err := s.store.Take(s.ctx, key, ratelimit.Take{N: 1 + i%5, Limits: limits})
					return err
				})
				lent(i, func(key string) error {
					_, err := s.store.Adjust(s.ctx, key, ratelimit.Adjustment{N: -1, Limits: limits})
					return err
				})
			}
			for i := range keys {
				key := fmt.Sprintf(name, i)
				r, err := s.store.Take(s.ctx, key, ratelimit.Take{Limits: limits})
				if want := max(0, 5-(1+i%5)-1); err != nil || r.Remaining != want {
					s.t.Fatalf("%q: %d remaining, %v; want %d: the store kept the caller's bytes", key, r.Remaining, err, want)
				}
				s.want("a key that was never used", s.look(strings.Repeat("#", len(key)), limits...), allowedBy(l, 5, 0))
			}
		}
	}
}
