// Package gameday plays scenarios on a running cluster: users write to each other while links, servers and clocks fail as
// a script says, everything that users and regions saw is recorded, and I1 to I12 are judged.
//
// A scenario is a text file, one step a line, blank lines and lines that begin with # apart; the first # line is its title.
// Durations like 5s..60s are 5 s in the short form and 60 s in the long one; so are counts like 3..20.
//
//	users pairs 1 group every 250ms [ack global]   who writes, from the beginning; the first step
//	needs stand-in us  a cluster in which us stands in between regions that lose each other (replicator.stand_ins)
//	cut LINKS          links drop what they carry and refuse more: eu>us one way, eu all from and to eu, all
//	split eu,us | ap   cuts every link between the groups
//	heal LINKS         links carry again
//	delay LINKS 500ms  one way
//	kill TARGET        kill -9 of members: eu/kafka, eu/gateway-1, eu/imserver (all of a kind), eu, all
//	stop, start, restart, pause, resume TARGET
//	wipe TARGET        kill -9 of PostgreSQL or Redis, and all that they kept is removed: started, they are filled from logs that are whole
//	clock TARGET 4s    the clocks of imservers are off by so much; 0s is right again
//	hold 5s..60s       lets it be
//	flows [eu > us] within 30s        everybody in eu is acked and shown to everybody in us, of what is sent from now on
//	accepts [eu] within 30s           everybody in eu is acked, of what is sent from now on
//	told eu within 30s                somebody in eu was told to send again, since the last step that broke something
//	unnoticed [us,ap]                 nobody there was told to send again or lost a socket, since then
//	repeat 3..20       the steps up to end, so often
//	end
//
// After the last step everything is healed, the writing ends, everything has to arrive, and the history is judged.
package gameday

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/antipode-im/antipode/im"
)

// Scenario is a script that was read.
type Scenario struct {
	Name  string // of its file, without the extension
	Title string
	Users Users
	Needs []im.Region // regions that must stand in
	Steps []Step
}

// Users say who writes to whom.
type Users struct {
	Pairs int
	Group bool
	Every time.Duration
	Ack   im.AckLevel
}

// Step is a line of a script.
type Step struct {
	Line   int
	Text   string // as it is written
	Verb   string
	Links  []Link      // cut, heal, delay, split
	Target string      // of orders to members and clocks
	From   []im.Region // flows, accepts, told, unnoticed; empty: all
	To     []im.Region // flows
	For    Length      // hold, delay, within, and how far a clock is off
	Times  Count       // repeat
	Steps  []Step      // repeat
}

// Link names links: from one region to another; empty is any.
type Link struct{ From, To im.Region }

// Length is a duration in the short and in the long form.
type Length struct{ Short, Long time.Duration }

// Count is a number in the short and in the long form.
type Count struct{ Short, Long int }

// breaks tells whether a step breaks something, and mends whether it undoes that.
func (s Step) breaks() bool {
	switch s.Verb {
	case "cut", "split", "delay", "kill", "stop", "restart", "pause", "wipe":
		return true
	case "clock":
		return s.For.Short != 0
	}
	return false
}

func (s Step) mends() bool {
	switch s.Verb {
	case "heal", "start", "resume":
		return true
	case "clock":
		return s.For.Short == 0
	}
	return false
}

// Parse reads a script. An error names the file, the line and what is wanted.
func Parse(name string, r io.Reader) (*Scenario, error) {
	p := parser{scenario: &Scenario{Name: name}}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.line++
		text := strings.TrimSpace(lines.Text())
		if title, ok := strings.CutPrefix(text, "#"); ok {
			if p.scenario.Title == "" {
				p.scenario.Title = strings.TrimSpace(title)
			}
			continue
		}
		if text == "" {
			continue
		}
		if err := p.step(text); err != nil {
			return nil, fmt.Errorf("%s:%d: %q: %w", name, p.line, text, err)
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, fmt.Errorf("%s: %w", name, lines.Err())
	case len(p.open) > 0:
		return nil, fmt.Errorf("%s:%d: repeat without end", name, p.open[len(p.open)-1].Line)
	case p.scenario.Users.Every == 0:
		return nil, fmt.Errorf("%s: nobody writes: begin with users pairs 1 every 250ms", name)
	case p.scenario.Title == "":
		return nil, fmt.Errorf("%s: it has no title: begin with a line like # A region is isolated", name)
	}
	return p.scenario, nil
}

type parser struct {
	scenario *Scenario
	line     int
	open     []Step // repeats under way, outermost first
}

func (p *parser) add(s Step) {
	if n := len(p.open); n > 0 {
		p.open[n-1].Steps = append(p.open[n-1].Steps, s)
		return
	}
	p.scenario.Steps = append(p.scenario.Steps, s)
}

func (p *parser) step(text string) error {
	verb, rest, _ := strings.Cut(text, " ")
	words := strings.Fields(rest)
	s := Step{Line: p.line, Text: text, Verb: verb}
	var err error
	switch verb {
	case "users":
		p.scenario.Users, err = parseUsers(words)
		return err
	case "needs":
		what, region, _ := strings.Cut(rest, " ")
		if p.scenario.Needs, err = parseRegions(strings.TrimSpace(region)); err == nil && (what != "stand-in" || p.scenario.Needs == nil) {
			err = errors.New("want regions that must stand in, such as needs stand-in us")
		}
		return err
	case "end":
		n := len(p.open)
		if n == 0 {
			return errors.New("no repeat is open")
		}
		s = p.open[n-1]
		p.open = p.open[:n-1]
	case "repeat":
		if s.Times, err = parseCount(one(words)); err != nil {
			return err
		}
		p.open = append(p.open, s)
		return nil
	case "cut", "heal":
		s.Links, err = parseLinks(one(words))
	case "split":
		s.Links, err = parseSplit(rest)
	case "delay":
		if len(words) != 2 {
			return errors.New("want links and a duration: delay eu>us 300ms")
		}
		if s.Links, err = parseLinks(words[0]); err == nil {
			s.For, err = parseLength(words[1])
		}
	case "kill", "stop", "start", "restart", "pause", "resume", "wipe":
		if s.Target = one(words); s.Target == "" {
			err = fmt.Errorf("want one member, such as %s eu/kafka", verb)
		}
	case "clock":
		if len(words) != 2 {
			return errors.New("want imservers and a duration: clock eu/imserver 4s")
		}
		s.Target = words[0]
		s.For, err = parseLength(words[1])
	case "hold":
		s.For, err = parseLength(one(words))
	case "flows", "accepts", "told", "unnoticed":
		err = s.parseCheck(words)
	default:
		return fmt.Errorf("unknown step %q", verb)
	}
	if err == nil {
		p.add(s)
	}
	return err
}

// parseCheck reads [regions [> regions]] [within duration].
func (s *Step) parseCheck(words []string) error {
	if n := len(words); n >= 2 && words[n-2] == "within" {
		var err error
		if s.For, err = parseLength(words[n-1]); err != nil {
			return err
		}
		words = words[:n-2]
	} else if s.Verb != "unnoticed" {
		return errors.New("want a bound at the end, such as within 30s")
	}
	from, to, directed := strings.Cut(strings.Join(words, ""), ">")
	if directed && (s.Verb != "flows" || from == "" || to == "") {
		return errors.New("a direction is for flows, as in flows eu > us within 30s")
	}
	if s.Verb == "told" && from == "" {
		return errors.New("want the region whose users are told")
	}
	var err error
	if s.From, err = parseRegions(from); err == nil {
		s.To, err = parseRegions(to)
	}
	return err
}

func one(words []string) string {
	if len(words) != 1 {
		return ""
	}
	return words[0]
}

func parseUsers(words []string) (Users, error) {
	u := Users{Ack: im.AckRegion}
	wrong := errors.New("want users pairs 1 group every 250ms ack global, group and ack being optional")
	for len(words) > 0 {
		if words[0] == "group" {
			u.Group, words = true, words[1:]
			continue
		}
		if len(words) < 2 {
			return Users{}, wrong
		}
		var err error
		switch value := words[1]; words[0] {
		case "pairs":
			u.Pairs, err = strconv.Atoi(value)
		case "every":
			u.Every, err = time.ParseDuration(value)
		case "ack":
			u.Ack = im.AckLevel(value)
		default:
			return Users{}, wrong
		}
		if err != nil {
			return Users{}, err
		}
		words = words[2:]
	}
	if u.Every <= 0 || u.Pairs < 0 || u.Pairs == 0 && !u.Group || u.Ack != im.AckRegion && u.Ack != im.AckGlobal {
		return Users{}, wrong
	}
	return u, nil
}

func parseLinks(text string) ([]Link, error) {
	from, to, one := strings.Cut(text, ">")
	switch {
	case text == "all":
		return []Link{{}}, nil
	case one && from != "" && to != "" && from != to:
		return []Link{{im.Region(from), im.Region(to)}}, nil
	case !one && text != "":
		return []Link{{From: im.Region(text)}, {To: im.Region(text)}}, nil
	}
	return nil, fmt.Errorf("links %q: want eu>us, eu or all", text)
}

func parseSplit(text string) ([]Link, error) {
	var groups [][]im.Region
	for part := range strings.SplitSeq(text, "|") {
		g, err := parseRegions(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			return nil, err
		}
		if len(g) == 0 {
			return nil, errors.New("want groups of regions, such as split eu,us | ap")
		}
		groups = append(groups, g)
	}
	var links []Link
	for i, a := range groups {
		for j, b := range groups {
			for _, from := range a {
				for _, to := range b {
					if i != j {
						links = append(links, Link{from, to})
					}
				}
			}
		}
	}
	if links == nil {
		return nil, errors.New("want two groups or more, such as split eu,us | ap")
	}
	return links, nil
}

func parseRegions(text string) ([]im.Region, error) {
	if text == "" {
		return nil, nil
	}
	var all []im.Region
	for name := range strings.SplitSeq(text, ",") {
		if name == "" || slices.Contains(all, im.Region(name)) {
			return nil, fmt.Errorf("regions %q: want names with commas between them", text)
		}
		all = append(all, im.Region(name))
	}
	return all, nil
}

func parseLength(text string) (Length, error) {
	short, long, two := strings.Cut(text, "..")
	if !two {
		long = short
	}
	a, err := time.ParseDuration(short)
	if err != nil {
		return Length{}, fmt.Errorf("duration %q: want one like 5s, or 5s..60s", text)
	}
	b, err := time.ParseDuration(long)
	if err != nil || b.Abs() < a.Abs() {
		return Length{}, fmt.Errorf("duration %q: want one like 5s, or 5s..60s, the longer one last", text)
	}
	return Length{a, b}, nil
}

func parseCount(text string) (Count, error) {
	short, long, two := strings.Cut(text, "..")
	if !two {
		long = short
	}
	a, err := strconv.Atoi(short)
	b, err2 := strconv.Atoi(long)
	if err != nil || err2 != nil || a < 1 || b < a {
		return Count{}, fmt.Errorf("count %q: want one like 3, or 3..20", text)
	}
	return Count{a, b}, nil
}

// in picks the form.
func (l Length) in(long bool) time.Duration {
	if long {
		return l.Long
	}
	return l.Short
}

func (c Count) in(long bool) int {
	if long {
		return c.Long
	}
	return c.Short
}

// of lists those of a cluster's links that are named.
func (l Link) of(regions []im.Region) []Link {
	var all []Link
	for _, from := range regions {
		for _, to := range regions {
			if from != to && (l.From == "" || l.From == from) && (l.To == "" || l.To == to) {
				all = append(all, Link{from, to})
			}
		}
	}
	return all
}
