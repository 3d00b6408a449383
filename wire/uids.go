package wire

import "github.com/antipode-im/antipode/im"

// Texts are uids, or names of groups, as messages carry them; nil for none.
func Texts(uids []im.UID) []string {
	if len(uids) == 0 {
		return nil
	}
	all := make([]string, len(uids))
	for i, u := range uids {
		all[i] = string(u)
	}
	return all
}

// UIDs reads what Texts wrote.
func UIDs(texts []string) []im.UID {
	if len(texts) == 0 {
		return nil
	}
	all := make([]im.UID, len(texts))
	for i, t := range texts {
		all[i] = im.UID(t)
	}
	return all
}
