package redis_test

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"github.com/antipode-im/antipode/internal/redis"
)

// fakeServer is a Redis that knows one command: INFO.
func fakeServer(t *testing.T, version string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go answer(conn, version)
		}
	}()
	return l.Addr().String()
}

// answer reads arrays of strings until the client hangs up.
func answer(conn net.Conn, version string) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	line := func() string {
		text, err := in.ReadString('\n')
		if err != nil {
			return ""
		}
		return strings.TrimSpace(text)
	}
	for {
		n, err := strconv.Atoi(strings.TrimPrefix(line(), "*"))
		if err != nil {
			return
		}
		var command string
		for i := range n {
			line() // length
			if word := line(); i == 0 {
				command = strings.ToUpper(word)
			}
		}
		if command != "INFO" {
			fmt.Fprintf(conn, "-ERR unknown command %s\r\n", command)
			continue
		}
		info := "# Server\r\nredis_version:" + version + "\r\nredis_mode:standalone\r\n"
		fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(info), info)
	}
}

func TestOldServersAreRefused(t *testing.T) {
	for version, old := range map[string]bool{"5.0.14": true, "2.8.9": true, "6.0.0": false, "7.2.4": false, "255.255.255": false} {
		client := goredis.NewClient(&goredis.Options{Addr: fakeServer(t, version)})
		err := redis.Check(t.Context(), client)
		client.Close()
		if !old {
			if err != nil {
				t.Errorf("%s: %v", version, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s: it is taken", version)
			continue
		}
		problem, remedy, lasting := redis.Explain(err)
		if !lasting || !strings.Contains(problem, version) || !strings.Contains(problem, "version 6 or later") || remedy == "" {
			t.Errorf("%s: %q, %q, waiting does not help: %v", version, problem, remedy, lasting)
		}
	}
}
