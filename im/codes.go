package im

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Action is what a client does about an error or a close (I12).
type Action string

// The actions.
const (
	ActionRetry   Action = "retry"    // at once, or elsewhere
	ActionBackOff Action = "back_off" // later, with jitter
	ActionStop    Action = "stop"     // never as it is: the request or the credentials must change
)

// Code is one of the closed list of error codes on the wire.
type Code string

// The error codes. docs/protocol.md describes each; a test holds the two lists together.
const (
	CodeBadFrame            Code = "bad_frame"            // a frame that does not decode
	CodeUnknownFrame        Code = "unknown_frame"        // a frame of a kind this gateway does not know
	CodeFrameTooLarge       Code = "frame_too_large"      // over the frame size limit
	CodeBadToken            Code = "bad_token"            // malformed, bad signature, unknown key id, wrong audience
	CodeTokenExpired        Code = "token_expired"        // get a new one
	CodeHelloExpected       Code = "hello_expected"       // the first frame must be hello, in time
	CodeUnknownService      Code = "unknown_service"      // nothing registered under the frame's service name
	CodeUnknownMethod       Code = "unknown_method"       // the service has no such method
	CodeBadRequest          Code = "bad_request"          // a field is missing or malformed
	CodeBadConversation     Code = "bad_conversation"     // the conversation's id is malformed, or too old for a group to begin
	CodeBadClientID         Code = "bad_client_id"        // empty, not a UUIDv7, older than 24 h, or ahead of the skew bound
	CodeBadText             Code = "bad_text"             // empty or not valid UTF-8
	CodeTextTooLong         Code = "text_too_long"        // over the text length limit
	CodeBadCursor           Code = "bad_cursor"           // a cursor that is not in its normative form
	CodeStampAhead          Code = "stamp_ahead"          // a stamp from the future: fix the clock
	CodeNotMember           Code = "not_member"           // not, or no longer, a member of the conversation
	CodeUnknownConversation Code = "unknown_conversation" // no such group, for certain
	CodeNotYetHere          Code = "not_yet_here"         // this region has not heard of the group yet
	CodeWrongRegion         Code = "wrong_region"         // a group is created in the origin that its id names
	CodeQueueFailed         Code = "queue_failed"         // a submit queued before this one on the conn failed
	CodeTooManyRequests     Code = "too_many_requests"    // over the rate limit
	CodeOverloaded          Code = "overloaded"           // a queue is full
	CodeUnavailable         Code = "unavailable"          // a backend is gone or too slow; a resend is safe
	CodeUnready             Code = "unready"              // this instance must not take requests now (clock, catching up)
	CodeInternal            Code = "internal"             // a bug; it is logged with the trace id
	CodeDraining            Code = "draining"             // this gateway is going away: use another
	CodeReplaced            Code = "replaced"             // the same device logged in again elsewhere
	CodeLoginTie            Code = "login_tie"            // two sockets claimed one login number: raise it and log in again
	CodeDeviceLimit         Code = "device_limit"         // too many devices of this platform: those that logged in last stay
	CodeSlowConsumer        Code = "slow_consumer"        // the send queue stayed full: reconnect and pull
	CodeIdle                Code = "idle"                 // no heartbeat in time
	CodeSessionExpired      Code = "session_expired"      // the resume window passed: log in anew
	CodeGatewayFenced       Code = "gateway_fenced"       // the gateway lost its epoch
)

// Spec is what a code means to a client.
type Spec struct {
	Action Action
	Close  int // the WebSocket close code when it ends the connection; 0 if it never does
	HTTP   int // the status of the HTTP fallback
}

// specs is the one table of codes: docs/protocol.md is checked against it.
var specs = map[Code]Spec{
	CodeBadFrame:            {ActionStop, 4400, 400},
	CodeUnknownFrame:        {ActionStop, 0, 400},
	CodeFrameTooLarge:       {ActionStop, 4413, 413},
	CodeBadToken:            {ActionStop, 4401, 401},
	CodeTokenExpired:        {ActionStop, 4402, 401},
	CodeHelloExpected:       {ActionStop, 4403, 400},
	CodeUnknownService:      {ActionStop, 0, 404},
	CodeUnknownMethod:       {ActionStop, 0, 404},
	CodeBadRequest:          {ActionStop, 0, 400},
	CodeBadConversation:     {ActionStop, 0, 400},
	CodeBadClientID:         {ActionStop, 0, 400},
	CodeBadText:             {ActionStop, 0, 400},
	CodeTextTooLong:         {ActionStop, 0, 400},
	CodeBadCursor:           {ActionStop, 0, 400},
	CodeStampAhead:          {ActionStop, 0, 400},
	CodeNotMember:           {ActionStop, 0, 403},
	CodeUnknownConversation: {ActionStop, 0, 404},
	CodeNotYetHere:          {ActionBackOff, 0, 409},
	CodeWrongRegion:         {ActionStop, 0, 409},
	CodeQueueFailed:         {ActionRetry, 0, 409},
	CodeTooManyRequests:     {ActionBackOff, 4429, 429},
	CodeOverloaded:          {ActionBackOff, 4503, 503},
	CodeUnavailable:         {ActionBackOff, 4504, 503},
	CodeUnready:             {ActionBackOff, 4505, 503},
	CodeInternal:            {ActionBackOff, 4500, 500},
	CodeDraining:            {ActionRetry, 4001, 503},
	CodeReplaced:            {ActionStop, 4002, 409},
	CodeLoginTie:            {ActionRetry, 4003, 409},
	CodeDeviceLimit:         {ActionStop, 4008, 409},
	CodeSlowConsumer:        {ActionRetry, 4004, 503},
	CodeIdle:                {ActionRetry, 4005, 408},
	CodeSessionExpired:      {ActionRetry, 4006, 409},
	CodeGatewayFenced:       {ActionRetry, 4007, 503},
}

// Codes lists every code, sorted.
func Codes() []Code { return slices.Sorted(maps.Keys(specs)) }

// Spec returns what the code means; a code from a newer peer is treated as internal.
func (c Code) Spec() Spec {
	if s, ok := specs[c]; ok {
		return s
	}
	return specs[CodeInternal]
}

// CodeOfClose returns the code that a WebSocket close code stands for. Close codes that are not ours (1006, 1011…) read
// as unavailable: back off and try elsewhere.
func CodeOfClose(close int) Code {
	for c, s := range specs {
		if s.Close == close && close != 0 {
			return c
		}
	}
	return CodeUnavailable
}

// Error is an error with a code of the wire's list. Detail is for people and is sent to the client: it never holds
// secrets or other users' data.
type Error struct {
	Code       Code
	Detail     string
	RetryAfter time.Duration // when to come back, for retry and back_off; 0 leaves it to the client's policy
}

// Error shows code and detail.
func (e *Error) Error() string {
	if e.Detail == "" {
		return string(e.Code)
	}
	return string(e.Code) + ": " + e.Detail
}

// Is makes errors.Is(err, &Error{Code: c}) compare by code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Errorf returns an *Error with a code and a detail.
func Errorf(c Code, format string, args ...any) *Error {
	return &Error{Code: c, Detail: fmt.Sprintf(format, args...)}
}

// CodeOf returns the code of an error: CodeInternal for one that has none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// ErrKilled as the cause of a service's context makes it stop like a crashed process: sockets are dropped, nothing is
// drained, released or said goodbye to. `antipode dev` and fault tests use it.
var ErrKilled = errors.New("killed")
