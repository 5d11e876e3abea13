package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
)

// Listen serves each connection that comes until the test ends, and closes it when serve returns.
func Listen(tb testing.TB, serve func(net.Conn)) (addr string) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

// Pretend listens until the test ends, and replies to every command with what answer returns for it. It closes the
// connection when answer returns false.
func Pretend(tb testing.TB, answer func(command []string) (reply string, more bool)) (addr string) {
	tb.Helper()
	return Listen(tb, func(conn net.Conn) { pretend(conn, answer) })
}

// Silent accepts connections and never answers.
func Silent(tb testing.TB) (addr string) {
	tb.Helper()
	return Listen(tb, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
}

// Handshake is what Redis 5, which does not know HELLO, replies to the commands that a client begins with.
func Handshake(command []string) (reply string, more bool) {
	if strings.EqualFold(command[0], "hello") {
		return "-ERR unknown command\r\n", true
	}
	return "+OK\r\n", true
}

func pretend(conn net.Conn, answer func(command []string) (string, bool)) {
	in := bufio.NewReader(conn)
	for {
		command, err := readCommand(in)
		if err != nil {
			return
		}
		reply, more := answer(command)
		if _, err := io.WriteString(conn, reply); err != nil || !more {
			return
		}
	}
}

// readCommand reads an array of bulk strings.
func readCommand(in *bufio.Reader) ([]string, error) {
	number := func(mark string) (int, error) {
		line, err := in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, mark)))
	}
	n, err := number("*")
	if err != nil || n < 1 {
		return nil, fmt.Errorf("%d arguments: %w", n, err)
	}
	args := make([]string, n)
	for i := range args {
		size, err := number("$")
		if err != nil {
			return nil, err
		}
		text := make([]byte, size+2)
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, err
		}
		args[i] = string(text[:size])
	}
	return args, nil
}
