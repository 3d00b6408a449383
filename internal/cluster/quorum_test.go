package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestQuorumGone: of three brokers that are stopped at once the last waits for a controller that is no more. It is killed, which is
// no error. Where a majority goes on running, a broker that does not stop is an error as ever.
func TestQuorumGone(t *testing.T) {
	cfg, d := setup(t)
	cfg.File.Kafka.Brokers, cfg.File.Regions = 3, cfg.File.Regions[:1]
	cfg.File.StopIn, cfg.quorumGrace = 30*time.Second, 200*time.Millisecond
	plain := cfg.server
	cfg.server = func(m MemberPlan) Server {
		s := plain(m).(*script)
		if m.Part == "kafka-3" {
			s.prepare = func(context.Context) error { // one that was killed leaves it there
				return os.RemoveAll(filepath.Join(s.dir, "ready"))
			}
			s.text = fmt.Sprintf("trap '' TERM; echo +%s >> %s; touch ready; %s", m.Name, d.path, forever)
		}
		return s
	}
	s := up(t, cfg)
	began := time.Now()
	if err := s.Stop(t.Context(), "eu/kafka"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > cfg.File.StopIn/2 {
		t.Errorf("it took %v, of at most %v for any member", took, cfg.File.StopIn)
	}
	for _, st := range s.Status() {
		if st.Kind == backendKafka && st.State != StateDown {
			t.Errorf("got %+v", st)
		}
	}

	if err := s.Start(t.Context(), "eu/kafka"); err != nil {
		t.Fatal(err)
	}
	for _, m := range s.now().members {
		m.stopIn = time.Second
	}
	if err := s.Stop(t.Context(), "eu/kafka-3"); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("two of three run, the third does not stop, and it is said: %v", err)
	}
}
