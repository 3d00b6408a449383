package faultnet

import "time"

// Profile is a bad network: how it always is, and what happens to it over and over.
type Profile struct {
	Name     string
	Up, Down Fault         // always: delay, rate and buffer; states come from Phases
	Forgets  time.Duration // connections that are quiet for longer are stranded; 0: none
	Upgrades time.Duration // connections on which an upgrade was asked for are reset after so long; 0: never
	Phases   []Phase       // one after the other, and again; none: all is open
}

// Phase is a part of a profile's time.
type Phase struct {
	For      time.Duration
	Up, Down State
	Stranded bool // at its end every connection is stranded
}

// TwoG is a phone at the edge of a GPRS cell: 40 kbit/s down and 16 kbit/s up, 300 ms each way, and no more than 8 KiB wait.
func TwoG() Profile {
	return Profile{
		Name: "2g",
		Up:   Fault{Delay: 300 * time.Millisecond, Rate: 2000, Buffer: 8 << 10},
		Down: Fault{Delay: 300 * time.Millisecond, Rate: 5000, Buffer: 8 << 10},
	}
}

// LossBursts is a train: every so often packets are lost both ways for a while. Over TCP that is a stall: what was lost is sent
// again once packets pass.
func LossBursts(every, lost time.Duration) Profile {
	return Profile{Name: "loss bursts", Phases: []Phase{
		{For: every - lost},
		{For: lost, Up: Stalled, Down: Stalled},
	}}
}

// Flapping is a link that is there for two thirds of a period and gone for one. Connections that sent meanwhile are reset when
// it is back.
func Flapping(period time.Duration) Profile {
	return Profile{Name: "flapping", Phases: []Phase{
		{For: period * 2 / 3},
		{For: period / 3, Up: Cut, Down: Cut},
	}}
}

// ForgetfulNAT forgets connections that are quiet for so long: no FIN, no RST, either way. Only new ones work.
func ForgetfulNAT(after time.Duration) Profile {
	return Profile{Name: "forgetful nat", Forgets: after}
}

// Handover changes the device's address every so often while something is on its way: the answer to what was sent is lost one
// time, what was sent the next. The connections are dead and nobody is told; new ones work.
func Handover(every, between time.Duration) Profile {
	return Profile{Name: "handover", Phases: []Phase{
		{For: every - between},
		{For: between, Down: Stalled, Stranded: true},
		{For: every - between},
		{For: between, Up: Stalled, Stranded: true},
	}}
}

// NoWebSockets is a proxy that ends every WebSocket after so long, and lets requests pass.
func NoWebSockets(after time.Duration) Profile {
	return Profile{Name: "no websockets", Upgrades: after}
}

// OneSided stalls one direction for a third of a period, and the other for the next third.
func OneSided(period time.Duration) Profile {
	return Profile{Name: "one-sided", Phases: []Phase{
		{For: period / 3},
		{For: period / 3, Up: Stalled},
		{For: period / 3, Down: Stalled},
	}}
}
