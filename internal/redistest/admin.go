package redistest

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// admin is a user for this package alone, so that tests can take any right from the default user.
const admin = "redistest"

// adminTimeout is how long one command may take, on a busy machine.
const adminTimeout = 2 * time.Second

// SetACL is ACL SETUSER: SetACL("app", "on", ">secret", "~rl:*", "+get"). Restart forgets it, unless
// CONFIG REWRITE has saved it.
func (s *Server) SetACL(user string, rules ...string) {
	s.tb.Helper()
	args := []any{"acl", "setuser", user}
	for _, rule := range rules {
		args = append(args, rule)
	}
	if err := s.do(args...).Err(); err != nil {
		s.tb.Fatal(err)
	}
}

// CommandCalls returns how often the server has run a command since it started, named as in INFO commandstats:
// "evalsha", "client|kill". Commands that a script runs count too.
func (s *Server) CommandCalls(name string) int64 {
	s.tb.Helper()
	info, err := s.info("commandstats")
	if err != nil {
		s.tb.Fatal(err)
	}
	stat, ok := info["cmdstat_"+strings.ToLower(name)]
	if !ok {
		return 0
	}
	var calls int64
	if _, err := fmt.Sscanf(stat, "calls=%d,", &calls); err != nil {
		s.tb.Fatalf("INFO commandstats: %q: %v", stat, err)
	}
	return calls
}

// CPU returns the processor time, user and system, that the server has spent since it started.
func (s *Server) CPU() time.Duration {
	s.tb.Helper()
	info, err := s.info("cpu")
	if err != nil {
		s.tb.Fatal(err)
	}
	var sum float64
	for _, name := range []string{"used_cpu_user", "used_cpu_sys"} {
		seconds, err := strconv.ParseFloat(info[name], 64)
		if err != nil {
			s.tb.Fatalf("INFO cpu: %s: %v", name, err)
		}
		sum += seconds
	}
	return time.Duration(sum * float64(time.Second))
}

// info returns the fields of a section of INFO.
func (s *Server) info(section string) (map[string]string, error) {
	text, err := s.do("info", section).Text()
	return fields(text), err
}

// fields reads the lines "name:value" of INFO and CLUSTER INFO.
func fields(text string) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[name] = value
		}
	}
	return m
}

// do runs one command as admin.
func (s *Server) do(args ...any) *redis.Cmd {
	cmd := redis.NewCmd(context.Background(), args...)
	s.process(cmd)
	return cmd
}

// process runs cmd as admin on a connection of its own: a pool would remember for a while that the server was down,
// and log every attempt to reach it.
func (s *Server) process(cmd redis.Cmder) {
	conn, err := net.DialTimeout("tcp", s.Addr, adminTimeout)
	if err != nil {
		cmd.SetErr(err)
		return
	}
	client := redis.NewClient(&redis.Options{
		Dialer:                   func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Username:                 admin,
		Password:                 admin, // any will do, but without one the client does not log in
		Protocol:                 2,
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
	defer cancel()
	if err := client.Process(ctx, cmd); err != nil {
		cmd.SetErr(fmt.Errorf("%s on %s: %w", cmd.FullName(), s.Addr, err))
	}
}
