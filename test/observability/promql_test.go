package observability

import (
	"regexp"
	"slices"
	"strings"
)

// selector is a series selector in a PromQL expression.
type selector struct {
	name     string // empty if a matcher of __name__ names the metrics
	matchers []matcher
}

type matcher struct{ label, op, value string }

// names lists the metrics that a selector names.
func (s selector) names() []string {
	if s.name != "" {
		return []string{s.name}
	}
	for _, m := range s.matchers {
		if m.label == "__name__" {
			return strings.Split(m.value, "|")
		}
	}
	return nil
}

// reading is what an expression says of metrics and labels. It is no parser: promtool says whether an expression is one.
type reading struct {
	selectors []selector
	grouped   []string // labels in by, without, on, ignoring, group_left, group_right
	made      []string // labels that label_replace and label_join make
}

var (
	word    = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*`)
	number  = regexp.MustCompile(`^[0-9.]+([eE][+-]?[0-9]+)?[a-z]*`)
	pairs   = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"`)
	quoted  = regexp.MustCompile(`^"((?:[^"\\]|\\.)*)"`)
	madeBy  = regexp.MustCompile(`^\s*,\s*"([a-zA-Z_][a-zA-Z0-9_]*)"`)
	groups  = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	neither = []string{
		"and", "or", "unless", "bool", "offset", "inf", "nan", // operators and numbers
		"sum", "min", "max", "avg", "count", "group", "stddev", "stdvar", "topk", "bottomk", "quantile", "count_values", // may be followed by "by"
	}
)

func read(expr string) reading {
	var r reading
	making := 0 // how deep the parenthesis of label_replace is; 0: not in one
	depth := 0
	for i := 0; i < len(expr); {
		rest := expr[i:]
		switch c := rest[0]; {
		case c == '"':
			i += len(quoted.FindString(rest))
		case c == '[':
			i += strings.IndexByte(rest, ']') + 1
		case c == '{':
			end := closing(rest)
			r.selectors = append(r.selectors, selector{matchers: matchers(rest[:end])})
			i += end + 1
		case c == '(':
			depth++
			i++
		case c == ')':
			if depth == making {
				making = 0
			}
			depth--
			i++
		case c == ',' && making == depth && making > 0:
			if m := madeBy.FindStringSubmatch(rest); m != nil {
				r.made = append(r.made, m[1])
				making = -1 // the other strings are no labels
			}
			i++
		case c >= '0' && c <= '9' || c == '.':
			i += len(number.FindString(rest))
		case word.MatchString(rest):
			w := word.FindString(rest)
			i += len(w)
			after := strings.TrimLeft(expr[i:], " \n\t")
			skipped := len(expr[i:]) - len(after)
			switch {
			case slices.Contains(groups, w):
				if strings.HasPrefix(after, "(") {
					end := strings.IndexByte(after, ')')
					for label := range strings.SplitSeq(after[1:end], ",") {
						if label = strings.TrimSpace(label); label != "" {
							r.grouped = append(r.grouped, label)
						}
					}
					i += skipped + end + 1
				}
			case slices.Contains(neither, strings.ToLower(w)):
			case strings.HasPrefix(after, "("):
				if w == "label_replace" || w == "label_join" {
					making = depth + 1
				}
			case strings.HasPrefix(after, "{"):
				end := closing(after)
				r.selectors = append(r.selectors, selector{w, matchers(after[:end])})
				i += skipped + end + 1
			default:
				r.selectors = append(r.selectors, selector{name: w})
			}
		default:
			i++
		}
	}
	return r
}

// closing is where the brace that s begins with is closed.
func closing(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			i += max(len(quoted.FindString(s[i:])), 1) - 1
		case '}':
			return i
		}
	}
	return len(s) - 1
}

func matchers(s string) []matcher {
	var all []matcher
	for _, m := range pairs.FindAllStringSubmatch(s, -1) {
		all = append(all, matcher{m[1], m[2], m[3]})
	}
	return all
}
