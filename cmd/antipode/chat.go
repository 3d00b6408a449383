package main

import "github.com/spf13/cobra"

func newChatCommand() *cobra.Command {
	return &cobra.Command{Use: "chat", Short: "chat in a terminal"}
}
