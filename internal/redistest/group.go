package redistest

import (
	"fmt"
	"net"
	"time"
)

const (
	groupTimeout  = 30 * time.Second      // to form a group and to settle after a change: seconds, more under load
	groupInterval = 50 * time.Millisecond // between looks at all of its servers
)

// awake returns the servers that run and are not paused.
func awake(servers []*Server) []*Server {
	var up []*Server
	for _, s := range servers {
		if s.running() && !s.paused {
			up = append(up, s)
		}
	}
	return up
}

func addrs(servers []*Server) []string {
	list := make([]string, len(servers))
	for i, s := range servers {
		list[i] = s.Addr
	}
	return list
}

func byAddr(servers []*Server, addr string) *Server {
	for _, s := range servers {
		if s.Addr == addr {
			return s
		}
	}
	return nil
}

// following returns the address of the master that the server follows, "" if it is a master itself. A replica whose
// link is down is an error.
func (s *Server) following() (master string, err error) {
	info, err := s.info("replication")
	if err != nil || info["role"] == "master" {
		return "", err
	}
	if info["master_link_status"] != "up" {
		return "", fmt.Errorf("%s has no link to its master", s.Addr)
	}
	return net.JoinHostPort(info["master_host"], info["master_port"]), nil
}
