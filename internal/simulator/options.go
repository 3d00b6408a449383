package simulator

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Options say what one run is.
type Options struct {
	Seed    uint64
	Salt    uint64 // other choices of timing, with the same plan
	Records int    // submits that clients are to make
	Bug     Bug    // built in on purpose; empty: none
	Ops     Kept   // of the plan, what people do
	Faults  Kept   // of the plan, what goes wrong
}

// Kept names the parts of a plan that are kept, by number, sorted. Nil keeps all; to keep none, it is empty.
type Kept []int

func (k Kept) has(n int) bool {
	if k == nil {
		return true
	}
	_, ok := slices.BinarySearch(k, n)
	return ok
}

// String is the text form: numbers and ranges, joined by commas; - for none.
func (k Kept) String() string {
	if len(k) == 0 {
		return "-"
	}
	var parts []string
	for i := 0; i < len(k); {
		j := i
		for j+1 < len(k) && k[j+1] == k[j]+1 {
			j++
		}
		part := strconv.Itoa(k[i])
		if j > i {
			part += "-" + strconv.Itoa(k[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	return strings.Join(parts, ",")
}

func parseKept(s string) (Kept, error) {
	k := Kept{}
	if s == "-" {
		return k, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, ranged := strings.Cut(part, "-")
		a, err := strconv.Atoi(first)
		if err != nil {
			return nil, fmt.Errorf("%q: want numbers and ranges", part)
		}
		b := a
		if ranged {
			if b, err = strconv.Atoi(last); err != nil {
				return nil, fmt.Errorf("%q: want numbers and ranges", part)
			}
		}
		if len(k) > 0 && k[len(k)-1] >= a || b < a || b-a > 1<<20 {
			return nil, fmt.Errorf("%q: want them sorted", part)
		}
		for n := a; n <= b; n++ {
			k = append(k, n)
		}
	}
	return k, nil
}

// String is the text form, as ParseOptions reads it.
func (o Options) String() string {
	s := fmt.Sprintf("seed=%d records=%d", o.Seed, o.Records)
	if o.Salt != 0 {
		s += fmt.Sprintf(" salt=%d", o.Salt)
	}
	if o.Bug != "" {
		s += " bug=" + string(o.Bug)
	}
	if o.Ops != nil {
		s += " ops=" + o.Ops.String()
	}
	if o.Faults != nil {
		s += " faults=" + o.Faults.String()
	}
	return s
}

// ParseOptions reads the text form: key=value pairs, separated by spaces. Without records there are 5,000.
func ParseOptions(s string) (Options, error) {
	o := Options{Records: 5000}
	for pair := range strings.FieldsSeq(s) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return o, fmt.Errorf("%q: want key=value", pair)
		}
		var err error
		switch key {
		case "seed":
			o.Seed, err = strconv.ParseUint(value, 10, 64)
		case "salt":
			o.Salt, err = strconv.ParseUint(value, 10, 64)
		case "records":
			o.Records, err = strconv.Atoi(value)
		case "bug":
			o.Bug = Bug(value)
			if !slices.ContainsFunc(Bugs(), func(m Mutation) bool { return m.Bug == o.Bug }) {
				err = fmt.Errorf("there is no such bug")
			}
		case "ops":
			o.Ops, err = parseKept(value)
		case "faults":
			o.Faults, err = parseKept(value)
		default:
			err = fmt.Errorf("want seed, salt, records, bug, ops or faults")
		}
		if err != nil {
			return o, fmt.Errorf("%s: %w", pair, err)
		}
	}
	return o, nil
}
