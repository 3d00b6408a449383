package replicator

import (
	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/wire"
)

// agree returns the version of the link protocol that a link to a peer speaks: the highest that both ends do. When there
// is none, the error names who must be upgraded; the peer shows it as the reason why its link is closed.
func agree(self, peer im.Region, open *wire.LinkOpen) (uint32, error) {
	ours, theirs := wire.LinkVersions(), wire.AskedVersions(open)
	version, ok := ours.Common(theirs)
	if ok {
		return version, nil
	}
	behind := self
	if theirs.Newest < ours.Oldest {
		behind = peer
	}
	return 0, im.Errorf(im.CodeBadRequest,
		"the replicator of %s speaks versions %v of the link protocol, that of %s %v: upgrade %s to a release that speaks both first",
		self, ours, peer, theirs, behind)
}

// understood checks the version that the sender answered. Builds from before there were several answer none: they speak
// what was asked for.
func understood(o *wire.LinkOpened, peer im.Region) error {
	ours := wire.LinkVersions()
	if o.Version == 0 {
		return nil
	}
	if _, ok := ours.Common(wire.Versions{Oldest: o.Version, Newest: o.Version}); !ok {
		return im.Errorf(im.CodeBadRequest, "%s opened the link with version %d of its protocol; this build speaks %v", peer, o.Version, ours)
	}
	return nil
}
