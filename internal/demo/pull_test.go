package demo

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// elsewhere is a cluster of one region whose ipconf is somewhere.
type elsewhere struct{ ipconf string }

func (e elsewhere) Regions() []im.Region                    { return []im.Region{"eu"} }
func (e elsewhere) IPConf(im.Region) string                 { return e.ipconf }
func (e elsewhere) Token(im.UID) (string, time.Time, error) { return "token", time.Time{}, nil }

// A pull is tried again where the answer says that it may succeed later, as clients do, and nowhere else.
func TestPullAgain(t *testing.T) {
	for _, c := range []struct {
		name     string
		statuses []int // of the first answers
		says     string
		asked    int
	}{
		{"the owner is away for a moment", []int{503, 503}, "", 3},
		{"not a member", []int{403}, "answers 403", 1},
	} {
		asked := 0
		mux := http.NewServeMux()
		server := httptest.NewServer(mux)
		mux.HandleFunc("GET /v1/endpoints", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"gateways": [{"region": "eu", "pull_url": %q}]}`, server.URL)
		})
		mux.HandleFunc("POST /v1/pull", func(w http.ResponseWriter, _ *http.Request) {
			asked++
			if asked <= len(c.statuses) {
				w.WriteHeader(c.statuses[asked-1])
				return
			}
			b, err := proto.Marshal(&wire.PullResponse{})
			if err != nil {
				t.Error(err)
			}
			w.Write(b)
		})
		p := &crowd{cluster: elsewhere{server.URL}}
		_, err := p.pull(t.Context(), "eu", &chat{conversation: "d:ann:bob", members: []*user{{uid: "ann"}}})
		server.Close()
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) || asked != c.asked {
			t.Errorf("%s: asked %d times: %v", c.name, asked, err)
		}
	}
}
