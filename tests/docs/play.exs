# play.exs - plays the Elixir sessions of a document and compares them with what they say they give.
#
#   mix run play.exs elixir.md
#
# Of the fenced blocks of Elixir those with prompts count: "iex> expression", "...> its next line", and
# below it what it gives, as iex prints it; of an exception "** (Type) message". "..." stands for anything,
# and white space does not count. No value shown: any will do. All sessions of a document are one: variables
# and imports stay.
#
# Says what differs, and ends with status 0 if nothing did.

defmodule Play do
  @limit 30_000

  def main([document]) do
    exchanges = exchanges(File.read!(document))
    env = Code.env_for_eval(file: document)
    {right, _} = Enum.map_reduce(exchanges, {[], env}, &play/2)
    IO.puts("#{length(right)} expressions, #{Enum.count(right, &(not &1))} give something else")
    right != [] and Enum.all?(right)
  end

  # [{line, expression, what it gives}] of all blocks.
  defp exchanges(text) do
    lines = text |> String.split("\n") |> Enum.with_index(1)
    {_, exchanges} = Enum.reduce(lines, {:text, []}, &read/2)
    join = fn parts -> parts |> Enum.reverse() |> Enum.join("\n") end
    for {n, code, shown} <- Enum.reverse(exchanges), do: {n, join.(code), join.(shown)}
  end

  defp read({"```elixir" <> _, _}, {:text, done}), do: {:elixir, done}
  defp read({"```" <> _, _}, {:text, done}), do: {:other, done}
  defp read({"```" <> _, _}, {_, done}), do: {:text, done}

  defp read({"iex> " <> code, n}, {block, done}) when block != :other and block != :text do
    {:session, [{n, [code], []} | done]}
  end

  defp read({"...>" <> code, _}, {:session, [{n, more, []} | done]}) do
    {:session, [{n, [code | more], []} | done]}
  end

  defp read({line, _}, {:session, [{n, code, shown} | done]}) do
    {:session, [{n, code, [line | shown]} | done]}
  end

  defp read(_, state), do: state

  # {whether it gives what is shown, the state after it}
  defp play({line, code, shown}, state) do
    guard = spawn(fn -> end_after(line, code) end)
    {given, after_it} = run(line, code, state)
    Process.exit(guard, :kill)

    right = matches?(shown, given)
    right || IO.puts("line #{line}: #{code}\nshown: #{shown}\nis:    #{given}\n")
    {right, after_it}
  end

  defp end_after(line, code) do
    Process.sleep(@limit * String.to_integer(System.get_env("LIVE_FACTOR", "1")))
    IO.puts("line #{line}: #{code}\nlasts for too long")
    System.halt(1)
  end

  # What it gives, as text, and the state after it.
  defp run(line, code, {binding, env}) do
    quoted = Code.string_to_quoted!(code, file: env.file, line: line)
    {value, binding, env} = Code.eval_quoted_with_env(quoted, binding, env)
    {inspect(value, pretty: true, limit: :infinity, printable_limit: :infinity), {binding, env}}
  catch
    kind, reason -> {Exception.format_banner(kind, reason, __STACKTRACE__), {binding, env}}
  end

  defp matches?(shown, given) do
    parts = shown |> squeeze() |> String.split("...") |> Enum.map(&Regex.escape/1)
    pattern = Regex.compile!("\\A" <> Enum.join(parts, ".*") <> "\\z", "su")
    parts == [""] or Regex.match?(pattern, squeeze(given))
  end

  defp squeeze(text), do: String.replace(text, ~r/\s/u, "")
end

Play.main(System.argv()) || System.halt(1)
