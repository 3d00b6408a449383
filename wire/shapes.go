package wire

import antipodev1 "github.com/antipode-im/antipode/proto/antipode/v1"

// The frames of a client connection.
type (
	Frame   = antipodev1.Frame
	Hello   = antipodev1.Hello
	Resume  = antipodev1.Resume
	Welcome = antipodev1.Welcome
	Ping    = antipodev1.Ping
	Pong    = antipodev1.Pong
	Call    = antipodev1.Call
	Reply   = antipodev1.Reply
	Push    = antipodev1.Push
	PushAck = antipodev1.PushAck
	Behind  = antipodev1.Behind
	Goaway  = antipodev1.Goaway
	Error   = antipodev1.Error
	Bye     = antipodev1.Bye
	Cancel  = antipodev1.Cancel
)

// The kinds of a frame (its oneof).
type (
	FrameHello   = antipodev1.Frame_Hello
	FrameWelcome = antipodev1.Frame_Welcome
	FramePing    = antipodev1.Frame_Ping
	FramePong    = antipodev1.Frame_Pong
	FrameCall    = antipodev1.Frame_Call
	FrameReply   = antipodev1.Frame_Reply
	FramePush    = antipodev1.Frame_Push
	FramePushAck = antipodev1.Frame_PushAck
	FrameBehind  = antipodev1.Frame_Behind
	FrameGoaway  = antipodev1.Frame_Goaway
	FrameError   = antipodev1.Frame_Error
	FrameBye     = antipodev1.Frame_Bye
	FrameCancel  = antipodev1.Frame_Cancel
)

// The bodies of the service "im".
type (
	SubmitRequest    = antipodev1.SubmitRequest
	SubmitResponse   = antipodev1.SubmitResponse
	PullRequest      = antipodev1.PullRequest
	PullResponse     = antipodev1.PullResponse
	ListRequest      = antipodev1.ListRequest
	ListResponse     = antipodev1.ListResponse
	ListRow          = antipodev1.ListRow
	MarkRequest      = antipodev1.MarkRequest
	MarkResponse     = antipodev1.MarkResponse
	ReceiptsRequest  = antipodev1.ReceiptsRequest
	ReceiptsResponse = antipodev1.ReceiptsResponse
	Receipt          = antipodev1.Receipt
	TypingRequest    = antipodev1.TypingRequest
	TypingResponse   = antipodev1.TypingResponse
	Typing           = antipodev1.Typing
	MembersRequest   = antipodev1.MembersRequest
	MembersResponse  = antipodev1.MembersResponse
	RollRequest      = antipodev1.RollRequest
	Event            = antipodev1.EventRequest
	EventRecord      = antipodev1.EventRequest_Record
	EventReceipt     = antipodev1.EventRequest_Receipt
	EventTyping      = antipodev1.EventRequest_Typing
	Record           = antipodev1.Record
	Repeat           = antipodev1.Repeat
	Text             = antipodev1.Text
	Create           = antipodev1.Create
	Member           = antipodev1.Member
	Settings         = antipodev1.Settings
)

// The contents of a submit and of a record (their oneofs).
type (
	SubmitText     = antipodev1.SubmitRequest_Text
	SubmitCreate   = antipodev1.SubmitRequest_Create
	SubmitMember   = antipodev1.SubmitRequest_Member
	SubmitSettings = antipodev1.SubmitRequest_Settings
	RecordText     = antipodev1.Record_Text
	RecordCreate   = antipodev1.Record_Create
	RecordMember   = antipodev1.Record_Member
	RecordSettings = antipodev1.Record_Settings
)

// ServiceIM is the name of the first service behind gateways, and its methods.
const (
	ServiceIM      = "im"
	MethodSubmit   = "submit"
	MethodPull     = "pull"
	MethodList     = "list"
	MethodMark     = "mark"
	MethodReceipts = "receipts"
	MethodMembers  = "members"
	MethodTyping   = "typing"
	MethodEvent    = "event"
)

// MethodRoll asks who of some users is in a large group. Gateways ask it in their own name, with no uid; clients cannot.
const MethodRoll = "roll"
