package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

const (
	socketConns = 16
	socketLasts = 5 // times the time of other measurements: the CPU time of a process is counted in slices of the scheduler
)

// socketScenarios serve real requests: a server in a process of its own, on one core, and callers in this one.
func socketScenarios() (all []scenario) {
	if runtime.GOOS != "linux" {
		return nil // How much CPU another process has used is read from /proc.
	}
	for _, c := range webCases {
		name := "socket/" + c.name
		has := func(p peer) bool { return p.web != nil && (c.by == peerAddress || !p.direct) }
		all = append(all, scenario{name, has, func(p peer, o options) metrics { return onSocket(name, p, o) }})
	}
	return all
}

// serveEnv makes a process the server of a scenario, "scenario/peer". It is not a flag, because tests start themselves as
// servers, too.
const serveEnv = "BENCH_SERVE"

func runOrServe(run func() error) error {
	if name := os.Getenv(serveEnv); name != "" {
		return serve(name)
	}
	return run()
}

// serve answers on a free port until standard input ends, and prints the port's address first.
func serve(name string) error {
	for _, c := range webCases {
		for _, p := range peers {
			if "socket/"+c.name+"/"+p.name != name {
				continue
			}
			runtime.GOMAXPROCS(1)
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			fmt.Println(listener.Addr())
			server := &http.Server{Handler: p.web(roomy, c.by), ReadHeaderTimeout: time.Minute}
			go func() {
				_, _ = bufio.NewReader(os.Stdin).ReadByte()
				_ = server.Close()
			}()
			if err := server.Serve(listener); err != http.ErrServerClosed {
				return err
			}
			return nil
		}
	}
	return fmt.Errorf("%s=%q: no such server", serveEnv, name)
}

// onSocket measures requests over sockets that stay open.
func onSocket(name string, p peer, o options) metrics {
	cmd := exec.Command(must(os.Executable()))
	cmd.Env = append(cmd.Environ(), serveEnv+"="+name+"/"+p.name)
	cmd.Stderr = os.Stderr
	stdin, stdout := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	defer func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	}()
	address := strings.TrimSpace(must(bufio.NewReader(stdout).ReadString('\n')))
	l := newLoad(socketConns, 1, newKeys(1, false), func(int) taker { return overSocket(address) })
	l.lasting(o.lasts)
	l.verdicts()
	before := processCPU(cmd.Process.Pid)
	perRequest, _ := l.lasting(socketLasts * o.lasts)
	cpu := processCPU(cmd.Process.Pid) - before
	t := l.verdicts()
	m := metrics{name: microseconds(cpu) / float64(t.sum()), name + "/rate": float64(time.Second) / perRequest}
	m.check(name, t, allowed)
	return m
}

// overSocket is a client that sends the same request again and again on one connection.
func overSocket(address string) taker {
	conn := must(net.Dial("tcp", address))
	reader := bufio.NewReader(conn)
	request := []byte("GET / HTTP/1.1\r\nHost: " + address + "\r\n\r\n")
	return func(string) verdict {
		if _, err := conn.Write(request); err != nil {
			return failed
		}
		switch status, err := readStatus(reader); {
		case err != nil:
			return failed
		case status == http.StatusOK:
			return allowed
		case status == http.StatusTooManyRequests:
			return refused
		default:
			return failed
		}
	}
}

// readStatus reads the status of a response, and then the rest of it, whose length is known. http.ReadResponse would take
// more time than the server.
func readStatus(r *bufio.Reader) (status int, err error) {
	length := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		switch text := string(bytes.TrimSpace(line)); {
		case text == "":
			_, err := r.Discard(length)
			return status, err
		case status == 0:
			_, code, _ := strings.Cut(text, " ")
			code, _, _ = strings.Cut(code, " ")
			status, err = strconv.Atoi(code)
		case strings.HasPrefix(text, "Content-Length: "):
			length, err = strconv.Atoi(text[len("Content-Length: "):])
		}
		if err != nil {
			return 0, err
		}
	}
}

// processCPU is how long the threads of a process have run so far.
func processCPU(pid int) (sum time.Duration) {
	for _, file := range must(filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))) {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // The thread has ended.
		}
		ran, _, _ := strings.Cut(string(text), " ")
		sum += time.Duration(must(strconv.ParseInt(ran, 10, 64)))
	}
	return sum
}

func socketTables() (tables []table) {
	for _, c := range webCases {
		name := "socket/" + c.name
		tables = append(tables, table{"A request over a real socket, by " + c.title,
			fmt.Sprintf("A server on one core, %d connections that stay open, callers in another process; CPU is the server's, as the kernel counts it.", socketConns), []column{
				{title: "CPU a request, µs", metric: name, format: "%.2f", ratio: true},
				{title: "requests/s", metric: name + "/rate", format: "%.0f", more: true},
			}})
	}
	return tables
}
