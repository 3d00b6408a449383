package imserver

import (
	"context"
	"slices"

	"go.opentelemetry.io/otel/trace"

	"github.com/antipode-im/antipode/im"
	"github.com/antipode-im/antipode/imserver/accept"
	"github.com/antipode-im/antipode/imserver/view"
	"github.com/antipode-im/antipode/wire"
)

// maxListCursor bounds the text of a list cursor, in bytes: 16 partitions of 3 lanes of 64 origins.
const maxListCursor = 128 << 10

// Call answers a client's call: submit, pull, list, mark, receipts, members, typing. Every error is an *im.Error.
func (s *Server) Call(ctx context.Context, c im.Call) (im.CallResult, error) {
	result, err := s.call(ctx, c)
	method := c.Method
	if im.CodeOf(err) == im.CodeUnknownMethod {
		method = "unknown"
	}
	s.meter.called(ctx, method, err)
	if im.CodeOf(err) == im.CodeInternal {
		s.deps.Logger.Error("a call failed", "method", method, "error", err, "trace", traceparent(ctx))
	}
	return result, err
}

func (s *Server) call(ctx context.Context, c im.Call) (im.CallResult, error) {
	if c.Service != "" && c.Service != wire.ServiceIM {
		return im.CallResult{}, im.Errorf(im.CodeUnknownService, "this is service %q, not %q", wire.ServiceIM, c.Service)
	}
	methods := map[string]func(context.Context, im.Call) (im.CallResult, error){
		wire.MethodSubmit: s.submit, wire.MethodPull: s.pull, wire.MethodList: s.list,
		wire.MethodMark: s.mark, wire.MethodReceipts: s.receipts, wire.MethodMembers: s.members,
		wire.MethodTyping: s.typing,
	}
	method, ok := methods[c.Method]
	_, err := im.ParseUID(string(c.UID))
	if c.Method == wire.MethodRoll && c.UID == "" { // a gateway's own
		method, ok, err = s.roll, true, nil
	}
	switch {
	case !ok:
		return im.CallResult{}, im.Errorf(im.CodeUnknownMethod, "service %q has no method %q", wire.ServiceIM, c.Method)
	case err != nil:
		return im.CallResult{}, im.Errorf(im.CodeBadRequest, "%v", err)
	case !s.ready.Load():
		return im.CallResult{}, im.Errorf(im.CodeUnready, "this imserver is starting or ending")
	}
	if c.Method != wire.MethodSubmit {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.ReadTimeout)
		defer cancel()
	}
	return method(ctx, c)
}

// read checks that the caller may read a conversation.
func (s *Server) read(ctx context.Context, c im.Conversation, uid im.UID) error {
	if members := c.Members(); members != nil {
		if slices.Contains(members, uid) {
			return nil
		}
		return im.Errorf(im.CodeNotMember, "you are not in this conversation")
	}
	var known, ever bool
	if err := s.group(ctx, c, func(g *view.Group) { known, ever = g.Known(), len(g.Intervals(uid)) > 0 }); err != nil {
		return unavailable(s, "the group's members cannot be read", err)
	}
	switch {
	case ever:
		return nil
	case known:
		return im.Errorf(im.CodeNotMember, "you are not in this conversation")
	}
	return s.unheardOf(ctx, c)
}

func (s *Server) pull(ctx context.Context, c im.Call) (im.CallResult, error) {
	if trace.SpanContextFromContext(ctx).IsSampled() {
		var span trace.Span
		ctx, span = s.deps.Tracer.Start(ctx, "pull", trace.WithAttributes(s.attributes(c.Key)...))
		defer span.End()
	}
	var request wire.PullRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	conversation, err := accept.Conversation(request.Conversation, c.Key)
	if err != nil {
		return im.CallResult{}, err
	}
	q := view.PullQuery{UID: c.UID, Conversation: conversation, Limit: limit(request.Limit, s.cfg.PageRecords), Bytes: s.cfg.PageBytes}
	if q.Cursor, err = im.ParseCursor(request.Cursor); err != nil {
		return im.CallResult{}, err
	}
	if q.Upto, err = im.ParseCursor(request.Upto); err != nil {
		return im.CallResult{}, err
	}
	if err := s.read(ctx, conversation, c.UID); err != nil {
		return im.CallResult{}, err
	}
	page, err := s.deps.Store.Pull(ctx, q)
	if err != nil {
		return im.CallResult{}, unavailable(s, "the conversation cannot be read", err)
	}
	response := &wire.PullResponse{Cursor: page.Cursor.String(), More: page.More}
	for i := range page.Records {
		response.Records = append(response.Records, wire.RecordOf(&page.Records[i]))
	}
	for i := range page.Repeats {
		r := &page.Repeats[i]
		response.Repeats = append(response.Repeats, &wire.Repeat{
			Sender: string(r.Sender), ClientId: r.ClientID.String(),
			Stamp: uint64(r.Place.Stamp), Origin: string(r.Place.Origin), Seq: r.Place.Seq,
		})
	}
	result, err := answer(wire.Marshal(response))
	result.Join = joins([]im.Conversation{conversation}) // whether the caller still is in it, the gateway asks
	return result, err
}

func (s *Server) list(ctx context.Context, c im.Call) (im.CallResult, error) {
	var request wire.ListRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	if len(request.Cursor) > maxListCursor {
		return im.CallResult{}, im.Errorf(im.CodeBadCursor, "the list cursor has %d bytes; at most %d are allowed", len(request.Cursor), maxListCursor)
	}
	cursor, err := im.ParseListCursor(request.Cursor)
	if err != nil {
		return im.CallResult{}, err
	}
	page, err := s.deps.Store.List(ctx, view.ListQuery{UID: c.UID, Cursor: cursor, Limit: limit(request.Limit, s.cfg.ListRows)})
	if err != nil {
		return im.CallResult{}, unavailable(s, "the list cannot be read", err)
	}
	response := &wire.ListResponse{Cursor: page.Cursor.String(), More: page.More}
	for i := range page.Rows {
		r := &page.Rows[i]
		row := &wire.ListRow{
			Conversation: string(r.Conversation), Title: r.Title, Head: r.Head.String(), Unread: uint32(r.Unread),
			Delivered: r.Delivered.String(), Read: r.Read.String(), Member: r.Member,
		}
		if r.Last != nil {
			row.Last = wire.RecordOf(r.Last)
		}
		response.Rows = append(response.Rows, row)
	}
	result, err := answer(wire.Marshal(response))
	result.Join, result.All = joins(page.Groups), true
	return result, err
}

func (s *Server) receipts(ctx context.Context, c im.Call) (im.CallResult, error) {
	var request wire.ReceiptsRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	conversation, err := accept.Conversation(request.Conversation, c.Key)
	if err != nil {
		return im.CallResult{}, err
	}
	if conversation.Lane() == im.LaneSuper {
		return im.CallResult{}, im.Errorf(im.CodeBadRequest, "super groups have no read lists")
	}
	_, members, _, err := s.present(ctx, conversation, c.UID)
	if err != nil {
		return im.CallResult{}, err
	}
	all, err := s.deps.Store.Receipts(ctx, conversation, members)
	if err != nil {
		return im.CallResult{}, unavailable(s, "the receipts cannot be read", err)
	}
	response := &wire.ReceiptsResponse{}
	for _, r := range all {
		response.Receipts = append(response.Receipts, wire.ReceiptOf(wire.Cursors{Conversation: conversation, UID: r.UID, Delivered: r.Delivered, Read: r.Read}))
	}
	return answer(wire.Marshal(response))
}

func (s *Server) members(ctx context.Context, c im.Call) (im.CallResult, error) {
	var request wire.MembersRequest
	if err := wire.Unmarshal(c.Body, &request); err != nil {
		return im.CallResult{}, err
	}
	conversation, err := accept.Conversation(request.Conversation, c.Key)
	if err != nil {
		return im.CallResult{}, err
	}
	title, members, changes, err := s.present(ctx, conversation, c.UID)
	if err != nil {
		return im.CallResult{}, err
	}
	response := &wire.MembersResponse{Title: title, Changes: changes.String()}
	for _, uid := range members {
		response.Members = append(response.Members, string(uid))
	}
	return answer(wire.Marshal(response))
}

// present returns the title and present members of a conversation to one of them, and the changes that these are made of.
func (s *Server) present(ctx context.Context, c im.Conversation, uid im.UID) (title string, members []im.UID, changes im.Cursor, err error) {
	if members := c.Members(); members != nil {
		if !slices.Contains(members, uid) {
			return "", nil, nil, im.Errorf(im.CodeNotMember, "you are not in this conversation")
		}
		return "", members, nil, nil
	}
	known := false
	if err := s.group(ctx, c, func(g *view.Group) {
		known, title, members, changes = g.Known(), g.Title(), g.Members(), g.Changes()
	}); err != nil {
		return "", nil, nil, unavailable(s, "the group's members cannot be read", err)
	}
	if !known {
		return "", nil, nil, s.unheardOf(ctx, c)
	}
	if !slices.Contains(members, uid) {
		return "", nil, nil, im.Errorf(im.CodeNotMember, "you are not in this conversation")
	}
	return title, members, changes, nil
}

func answer(body []byte, err error) (im.CallResult, error) {
	return im.CallResult{Body: body}, err
}

func limit(asked uint32, most int) int {
	if asked == 0 || int64(asked) > int64(most) {
		return most
	}
	return int(asked)
}

// Positions tells how far the region's timelines are in one origin's logs, or in all of them for the empty origin.
func (s *Server) Positions(ctx context.Context, origin im.Origin) ([]im.Position, error) {
	all, err := s.deps.Store.Positions(ctx)
	if err != nil {
		return nil, err
	}
	var positions []im.Position
	for _, p := range all {
		if origin == "" || p.Partition.Origin() == origin {
			positions = append(positions, p.Position)
		}
	}
	return positions, nil
}

// Digest returns a digest of each part of the region's view: timelines, lists, cursors. Regions that applied the same
// records have equal digests (I9).
func (s *Server) Digest(ctx context.Context) (map[string]string, error) {
	return s.deps.Store.Digest(ctx)
}
