package backend

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxMetadata bounds the answer of something that may not be a Kafka broker.
const maxMetadata = 1 << 20

// askBrokers asks the broker at addr which brokers are up in its cluster. It is no client: one request, of the oldest kind
// that says so.
func askBrokers(ctx context.Context, addr string) ([]int32, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	request := kmsg.NewMetadataRequest()
	request.Version, request.Topics = 1, []kmsg.MetadataRequestTopic{}
	if _, err := conn.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("antipode")).AppendRequest(nil, &request, 1)); err != nil {
		return nil, err
	}
	head := make([]byte, 8) // size, correlation
	if _, err := io.ReadFull(conn, head); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint32(head)) - 4
	if size < 0 || size > maxMetadata {
		return nil, errors.New("what listens there is no Kafka broker")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(conn, body); err != nil {
		return nil, err
	}
	response := request.ResponseKind()
	if err := response.ReadFrom(body); err != nil {
		return nil, err
	}
	var nodes []int32
	for _, b := range response.(*kmsg.MetadataResponse).Brokers {
		nodes = append(nodes, b.NodeID)
	}
	return nodes, nil
}
