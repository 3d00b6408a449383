package client

import (
	"time"

	"github.com/antipode-im/antipode/client/timeline"
	"github.com/antipode-im/antipode/im"
)

// Message is one visible record of a conversation.
type Message = timeline.Message

// Event is one of the types below.
type Event interface{ event() }

// Inserted says that a message appeared. It is emitted once per message.
type Inserted struct {
	Conversation im.Conversation
	Message      Message
	Index        int       // among the messages kept (Client.Messages), at the time
	From         im.Region // that pushed it, or answered the pull
}

// Moved says that a message turned out to have been accepted at a lower place too, and shows there now.
type Moved struct {
	Conversation im.Conversation
	Message      Message // as it shows now
	From, Index  int     // index before and after
}

// Trimmed says that the Count messages of the lowest places are no longer kept in memory.
type Trimmed struct {
	Conversation im.Conversation
	Count        int
}

// Receipt says how far a member of a conversation is.
type Receipt struct {
	Conversation    im.Conversation
	UID             im.UID
	Delivered, Read im.Cursor
}

// Typing says that a user began to type in a conversation, or does not any more: they said so, sent what they typed, or were
// not heard of for some seconds. Not everybody who types is told of.
type Typing struct {
	Conversation im.Conversation
	UID          im.UID
	Stopped      bool
}

// Connected says that a gateway took this device's login.
type Connected struct {
	UID     im.UID
	Region  im.Region
	Origin  im.Origin // under which the region accepts
	Gateway string
	URL     string
	Resumed bool // the session went on: nothing was missed
	// LongPoll says that there is no WebSocket: the network ends them. They are tried again now and then.
	LongPoll bool
	Took     time.Duration
}

// Retried says that a submit was not accepted now and is sent again by itself. Err is an *im.Error: its code says why.
type Retried struct {
	Conversation im.Conversation
	Err          error
}

// CaughtUp says that everything the region held when it was asked is in the timelines.
type CaughtUp struct{ Region im.Region }

// Disconnected says that the socket is gone, why, and that another is being tried for.
type Disconnected struct {
	Region  im.Region
	Gateway string
	Err     error
}

// Stopped is the last event: the client gave up for good (another login of this device, a refused token), or was closed
// (Err is ErrClosed).
type Stopped struct{ Err error }

func (Inserted) event()     {}
func (Moved) event()        {}
func (Trimmed) event()      {}
func (Receipt) event()      {}
func (Typing) event()       {}
func (Connected) event()    {}
func (Retried) event()      {}
func (CaughtUp) event()     {}
func (Disconnected) event() {}
func (Stopped) event()      {}
