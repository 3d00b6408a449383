package wire

import (
	"bytes"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/antipode-im/antipode/im"
)

// PreparedPush is a push for many sessions: everything but the number is encoded once for each subprotocol, however many
// receive it. It is safe for concurrent use.
type PreparedPush struct {
	service, method, trace string
	body                   []byte
	binary                 []byte // the fields of Push after number

	decode  sync.Once
	cursors *Receipt // of a receipt event
	typing  *Typing  // of a typing event

	text    sync.Once
	json    []byte // what follows the number in the JSON frame
	jsonErr error
}

// PreparePush returns a push for many sessions. The body is not copied.
func PreparePush(service, method string, body []byte, trace string) *PreparedPush {
	p := &PreparedPush{service: service, method: method, trace: trace, body: body}
	b := make([]byte, 0, len(service)+len(method)+len(body)+len(trace)+16)
	if service != "" {
		b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), service)
	}
	if method != "" {
		b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), method)
	}
	if len(body) > 0 {
		b = protowire.AppendBytes(protowire.AppendTag(b, 4, protowire.BytesType), body)
	}
	if trace != "" {
		b = protowire.AppendString(protowire.AppendTag(b, 5, protowire.BytesType), trace)
	}
	p.binary = b
	return p
}

// Size is what the push takes of a session's buffer, in bytes.
func (p *PreparedPush) Size() int { return len(p.binary) + 12 }

// Parts returns what PreparePush was given, for another process to prepare it again.
func (p *PreparedPush) Parts() (service, method string, body []byte, trace string) {
	return p.service, p.method, p.body, p.trace
}

// Replaces tells whether whoever gets this push need not get an earlier one as well: both are of one user in one
// conversation, and tell of typing, or of cursors of which this one's cover the other's.
func (p *PreparedPush) Replaces(earlier *PreparedPush) bool {
	if now, before := p.asTyping(), earlier.asTyping(); now != nil || before != nil {
		return now != nil && before != nil && now.Conversation == before.Conversation && now.Uid == before.Uid
	}
	now, before := p.asReceipt(), earlier.asReceipt()
	return now != nil && before != nil && now.Conversation == before.Conversation && now.Uid == before.Uid &&
		covers(now.Delivered, before.Delivered) && covers(now.Read, before.Read)
}

// IsReceipt tells whether the push is a receipt.
func (p *PreparedPush) IsReceipt() bool { return p.asReceipt() != nil }

func (p *PreparedPush) asReceipt() *Receipt {
	p.decodeSmall()
	return p.cursors
}

func (p *PreparedPush) asTyping() *Typing {
	p.decodeSmall()
	return p.typing
}

// decodeSmall reads an event that is no record.
func (p *PreparedPush) decodeSmall() {
	p.decode.Do(func() {
		if p.service != ServiceIM || p.method != MethodEvent {
			return
		}
		for b := p.body; len(b) > 0; { // a record is not decoded for this
			number, typ, n := protowire.ConsumeTag(b)
			if n < 0 || number == 1 { // EventRequest.record
				return
			}
			b = b[n:]
			if n = protowire.ConsumeFieldValue(number, typ, b); n < 0 {
				return
			}
			b = b[n:]
		}
		var e Event
		if Unmarshal(p.body, &e) == nil {
			p.cursors, p.typing = e.GetReceipt(), e.GetTyping()
		}
	})
}

func covers(now, before string) bool {
	a, err := im.ParseCursor(now)
	if err != nil {
		return false
	}
	b, err := im.ParseCursor(before)
	return err == nil && a.CoversAll(b)
}

// Trace is the W3C traceparent of what caused the push, or empty.
func (p *PreparedPush) Trace() string { return p.trace }

// Append appends the frame of the push under a session's number, 0 for an ephemeral one, which has none. It fails only in JSON, when the body is not of its
// method's type; it appends the frame without a body then, so that the session's numbers still grow by 1.
func (p *PreparedPush) Append(b []byte, c *Codec, number uint64) ([]byte, error) {
	if !c.json {
		size := len(p.binary)
		if number > 0 {
			size += 1 + protowire.SizeVarint(number)
		}
		b = protowire.AppendTag(b, 7, protowire.BytesType) // Frame.push
		b = protowire.AppendVarint(b, uint64(size))
		if number > 0 {
			b = protowire.AppendTag(b, 1, protowire.VarintType)
			b = protowire.AppendVarint(b, number)
		}
		return append(b, p.binary...), nil
	}
	p.text.Do(p.encodeText)
	if number == 0 {
		b = append(b, `{"push":{`...)
		return append(b, bytes.TrimPrefix(bytes.TrimPrefix(p.json, []byte(`"`)), []byte(`,`))...), p.jsonErr
	}
	b = append(b, `{"push":{"number":"`...)
	b = strconv.AppendUint(b, number, 10)
	return append(b, p.json...), p.jsonErr
}

func (p *PreparedPush) encodeText() {
	const head = `{"push":{"number":"1`
	push := &Push{Number: 1, Service: p.service, Method: p.method, Trace: p.trace}
	body, err := encodeBody(method{p.service, p.method}, pushes, p.body)
	if err != nil {
		p.jsonErr, body = err, nil
	}
	f, err := encodeJSON("push", push, body)
	if err != nil { // the names are no UTF-8
		p.jsonErr, f = err, []byte(head+`"}}`)
	}
	p.json = f[len(head):]
}
