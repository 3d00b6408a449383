package gateway

import "testing"

// Without epoll, as on other systems, a gateway does the same.
func TestGoroutines(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"LoginSubmitPush", TestLoginSubmitPush},
		{"SubmitsOfAKeyGoInOrder", TestSubmitsOfAKeyGoInOrder},
		{"Resume", TestResume},
		{"ResumeTakesTheSessionOver", TestResumeTakesTheSessionOver},
		{"ClaimRefused", TestClaimRefused},
		{"Kick", TestKick},
		{"SlowConsumer", TestSlowConsumer},
		{"ConsumerThatDoesNotRead", TestConsumerThatDoesNotRead},
		{"Idle", TestIdle},
		{"TokenExpiresOnTheWay", TestTokenExpiresOnTheWay},
		{"BadHello", TestBadHello},
		{"BadFrames", TestBadFrames},
		{"Drain", TestDrain},
		{"Kill", TestKill},
		{"WorkedExample", TestWorkedExample},
	} {
		t.Run(test.name, test.run)
	}
}
