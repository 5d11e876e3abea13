package verify

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gin-ratelimit/ratelimit"
	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// FuzzReply has a server answer takes with anything. It is an error or a decision that can be, never a panic.
func FuzzReply(f *testing.F) {
	replies := make(chan string, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go pretend(conn, replies)
		}
	}()
	f.Cleanup(func() { close(replies) })
	limit := ratelimit.Limit{Capacity: 5, Refill: ratelimit.PerSecond(1)}
	f.Fuzz(func(t *testing.T, reply string) {
		client := redis.NewClient(&redis.Options{
			Addr: listener.Addr().String(), Protocol: 2, DisableIdentity: true, MaxRetries: -1, PoolSize: 1,
		})
		defer client.Close()
		store, err := ratelimit.NewRedisStore(client, ratelimit.WithTimeout(20*time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		replies <- reply
		r, err := store.Take(t.Context(), "key", 1, []ratelimit.Limit{limit})
		select {
		case <-replies:
		default:
		}
		if reply == "*3\r\n:1\r\n:0\r\n:0\r\n" && !r.Allowed {
			t.Errorf("a good reply: %v", err)
		}
		if err == nil && (r.Remaining < 0 || r.Remaining > limit.Capacity || r.Limit != limit || r.RetryAfter < 0 || r.ResetAfter < 0) {
			t.Errorf("reply %q: %+v", reply, r)
		}
	})
}

// pretend is a server that answers the take with what it is given, and everything else with OK.
func pretend(conn net.Conn, replies <-chan string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		words, err := readCommand(in)
		if err != nil {
			return
		}
		reply := "+OK\r\n"
		switch {
		case strings.EqualFold(words[0], "hello"):
			reply = "-ERR unknown command\r\n" // As Redis 5 says.
		case strings.HasPrefix(words[0], "eval"):
			var more bool
			if reply, more = <-replies; !more {
				return // The take was given up before its reply was put in, and the test is over.
			}
		}
		if _, err := io.WriteString(conn, reply); err != nil {
			return
		}
		if strings.HasPrefix(words[0], "eval") {
			return
		}
	}
}

// readCommand reads an array of bulk strings.
func readCommand(in *bufio.Reader) ([]string, error) {
	var n int
	if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil || n < 1 {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	words := make([]string, n)
	for i := range words {
		var length int
		if _, err := fmt.Fscanf(in, "$%d\r\n", &length); err != nil {
			return nil, err
		}
		word := make([]byte, length+2)
		if _, err := io.ReadFull(in, word); err != nil {
			return nil, err
		}
		words[i] = string(word[:length])
	}
	return words, nil
}

// FuzzState puts anything under a key. It is foreign and stays as it is, or it is a state, and then it has the form of
// one, and what it makes of a take can be.
func FuzzState(f *testing.F) {
	server := redistest.Start(f)
	client := redis.NewClient(redisOptions(server.Addr))
	f.Cleanup(func() { _ = client.Close() })
	store, err := ratelimit.NewRedisStore(client, patient, ratelimit.WithDenyCache(0))
	if err != nil {
		f.Fatal(err)
	}
	limits := []ratelimit.Limit{{Capacity: 5, Refill: ratelimit.PerSecond(1)}, {Capacity: 7, Refill: ratelimit.PerMinute(3)}}
	f.Fuzz(func(t *testing.T, state string) {
		ctx := context.Background()
		for n := 1; n <= 2; n++ {
			if err := client.Set(ctx, "ratelimit:key", state, 0).Err(); err != nil {
				t.Fatal(err)
			}
			r, err := store.Take(ctx, "key", 1, limits[:n])
			switch {
			case errors.Is(err, ratelimit.ErrForeignState):
				if got := client.Get(ctx, "ratelimit:key").Val(); got != state {
					t.Errorf("foreign state %q became %q", state, got)
				}
			case err != nil:
				t.Errorf("state %q: %v", state, err)
			case !strings.HasPrefix(state, "b1 ") || r.Remaining < 0 || r.Remaining > 7 || r.RetryAfter < 0 || r.ResetAfter < 0:
				t.Errorf("state %q: %+v", state, r)
			}
		}
	})
}

func redisOptions(addr string) *redis.Options { return &redis.Options{Addr: addr} }
