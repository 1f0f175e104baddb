/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/completion.h"

#include <string.h>

#include "cli/command_table.h"

/* How the scripts work. Four functions answer from the table, with plain words (bash and zsh share them):
 *   _drover_words PATH           words that may follow the beginning of a command, "vm" -> "list show ..."
 *   _drover_options PATH         options of a command
 *   _drover_operand PATH N       collection whose names complete the N-th operand
 *   _drover_value PATH OPTION    what completes an option's value: words, "names COLLECTION" or "file"
 * and one, per shell, walks the line and asks them. fish has its own words for all of this. */

/* Prints each word once that may follow `words` (n of them) in a visible command. Returns how many. */
static size_t print_next_words(FILE *out, const char *const *words, size_t n)
{
        char word[COMMAND_WORD_SIZE], last[COMMAND_WORD_SIZE] = "";
        size_t printed = 0;

        for (size_t i = 0; i < n_command_table; i++) {
                const struct command *c = &command_table[i];

                /* commands of one group stand together in the table */
                if (c->hidden || !command_starts_with(c, words, n) || !command_word(c, n, word) ||
                        !strcmp(word, last))
                        continue;
                fprintf(out, "%s%s", printed++ ? " " : "", word);
                snprintf(last, sizeof(last), "%s", word);
        }
        return printed;
}

typedef void (*group_fn)(FILE *out, const char *const *words, size_t n_words);

/* Calls fn for the root and for each beginning of a command that is not one itself: "", "vm", "network switch". */
static void for_each_group(FILE *out, group_fn fn)
{
        char seen[COMMAND_WORDS_MAX][COMMAND_WORD_SIZE] = {""};

        fn(out, NULL, 0);
        for (size_t i = 0; i < n_command_table; i++) {
                const struct command *c = &command_table[i];
                bool fresh = false;

                for (size_t depth = 0; !c->hidden && depth + 1 < command_n_words(c); depth++) {
                        char word[COMMAND_WORD_SIZE];
                        const char *words[COMMAND_WORDS_MAX];

                        command_word(c, depth, word);
                        fresh = fresh || strcmp(word, seen[depth]);
                        snprintf(seen[depth], sizeof(seen[depth]), "%s", word);
                        for (size_t w = 0; w <= depth; w++)
                                words[w] = seen[w];
                        if (fresh)
                                fn(out, words, depth + 1);
                }
        }
}

static void print_path(FILE *out, const char *const *words, size_t n_words)
{
        for (size_t i = 0; i < n_words; i++)
                fprintf(out, "%s%s", i ? " " : "", words[i]);
}

static void shell_group(FILE *out, const char *const *words, size_t n_words)
{
        fputs("    '", out);
        print_path(out, words, n_words);
        fputs("') echo '", out);
        print_next_words(out, words, n_words);
        fputs("' ;;\n", out);
}

static void print_choices(FILE *out, const char *choices)
{
        for (const char *s = choices; *s; s++)
                fputc(*s == '|' ? ' ' : *s, out);
}

static bool has_completion(const struct option_spec *option)
{
        return option->names_of || option->kind == VALUE_CHOICE || option->kind == VALUE_FILE;
}

static void shell_option_value(FILE *out, const char *pattern, const struct option_spec *option)
{
        if (!has_completion(option))
                return;
        fprintf(out, "    '%s--%s'", pattern, option->name);
        if (option->letter)
                fprintf(out, " | '%s-%c'", pattern, option->letter);
        fputs(") echo '", out);
        if (option->names_of)
                fprintf(out, "names %s", option->names_of);
        else if (option->kind == VALUE_FILE)
                fputs("file", out);
        else
                print_choices(out, option->value);
        fputs("' ;;\n", out);
}

static void shell_values(FILE *out)
{
        fputs("_drover_value() {\n    case \"$1 $2\" in\n", out);
        for (size_t i = 0; i < n_command_table; i++)
                for (const struct option_spec *o = command_table[i].options; o && o->name; o++) {
                        char pattern[64];

                        snprintf(pattern, sizeof(pattern), "%s ", command_table[i].words);
                        shell_option_value(out, pattern, o);
                }
        fputs("    *) case \"$2\" in\n", out);
        for (const struct option_spec *o = global_options; o->name; o++)
                shell_option_value(out, "", o);
        fputs("    esac ;;\n    esac\n}\n\n", out);
}

/* All options that take a value, of any command: an option means the same wherever it is. */
static void print_options_with_value(FILE *out)
{
        for (const struct option_spec *o = global_options; o->name; o++) {
                if (o->kind != VALUE_FLAG && o->letter)
                        fprintf(out, " -%c", o->letter);
                if (o->kind != VALUE_FLAG)
                        fprintf(out, " --%s", o->name);
        }
        for (size_t i = 0; i < n_command_table; i++)
                for (const struct option_spec *o = command_table[i].options; o && o->name; o++)
                        if (o->kind != VALUE_FLAG)
                                fprintf(out, " --%s", o->name);
}

static void shell_tables(FILE *out)
{
        fputs("_drover_words() {\n    case \"$1\" in\n", out);
        for_each_group(out, shell_group);
        fputs("    esac\n}\n\n_drover_options() {\n    case \"$1\" in\n", out);
        for (size_t i = 0; i < n_command_table; i++) {
                if (command_table[i].hidden || !command_table[i].options)
                        continue;
                fprintf(out, "    '%s') echo '", command_table[i].words);
                for (const struct option_spec *o = command_table[i].options; o->name; o++)
                        fprintf(out, "--%s ", o->name);
                fputs("' ;;\n", out);
        }
        fputs("    esac\n    echo '", out);
        for (const struct option_spec *o = global_options; o->name; o++)
                fprintf(out, "%s--%s", o == global_options ? "" : " ", o->name);
        fputs("'\n}\n\n_drover_operand() {\n    case \"$1 $2\" in\n", out);
        for (size_t i = 0; i < n_command_table; i++)
                for (size_t n = 0; !command_table[i].hidden && n < COMMAND_OPERANDS_MAX; n++)
                        if (command_table[i].operands[n].names_of)
                                fprintf(out, "    '%s %zu') echo 'names %s' ;;\n", command_table[i].words, n,
                                        command_table[i].operands[n].names_of);
        fputs("    'completion 0') echo 'bash zsh fish' ;;\n    esac\n}\n\n", out);
        shell_values(out);
        fputs("_drover_valued='", out);
        print_options_with_value(out);
        fputs(" '\n\n", out);
}

/* Reads the words before the cursor; sets path (the command's words) and n (operands seen). */
static const char shell_walk[] = "    local path='' n=0 skip='' word next answer\n"
                                 "    for word in \"$@\"; do\n"
                                 "        if [ -n \"$skip\" ]; then skip=''; continue; fi\n"
                                 "        case \"$word\" in\n"
                                 "        -*=*) ;;\n"
                                 "        -*) case \"$_drover_valued\" in *\" $word \"*) skip=1 ;; esac ;;\n"
                                 "        *)\n"
                                 "            next=$(_drover_words \"$path\")\n"
                                 "            case \" $next \" in\n"
                                 "            *\" $word \"*) path=\"${path:+$path }$word\" ;;\n"
                                 "            *) n=$((n + 1)) ;;\n"
                                 "            esac ;;\n"
                                 "        esac\n"
                                 "    done\n";

/* Sets answer: words, "names COLLECTION" or "file". */
static const char shell_answer[] =
        "    if [ -n \"$skip\" ]; then\n"
        "        answer=$(_drover_value \"$path\" \"$previous\")\n"
        "    else\n"
        "        case \"$current\" in\n"
        "        -*) answer=$(_drover_options \"$path\") ;;\n"
        "        *)\n"
        "            answer=$(_drover_words \"$path\")\n"
        "            [ -n \"$answer\" ] || answer=$(_drover_operand \"$path\" \"$n\") ;;\n"
        "        esac\n"
        "    fi\n"
        "    case \"$answer\" in\n"
        "    'names '*) answer=$(drover names \"${answer#names }\" 2>/dev/null) ;;\n"
        "    esac\n";

static void write_bash(FILE *out)
{
        fputs("# bash completion for drover; made by 'drover completion bash'\n\n", out);
        shell_tables(out);
        fputs("_drover_answer() {\n    local previous=$1 current=$2\n    shift 2\n", out);
        fputs(shell_walk, out);
        fputs(shell_answer, out);
        fputs("    echo \"$answer\"\n}\n\n"
              "_drover() {\n"
              "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} answer\n"
              "    answer=$(_drover_answer \"$previous\" \"$current\" \"${COMP_WORDS[@]:1:COMP_CWORD-1}\")\n"
              "    if [ \"$answer\" = file ]; then\n"
              "        mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n"
              "    else\n"
              "        mapfile -t COMPREPLY < <(compgen -W \"$answer\" -- \"$current\")\n"
              "    fi\n"
              "}\n\n"
              "complete -F _drover drover\n",
                out);
}

static void write_zsh(FILE *out)
{
        fputs("#compdef drover\n# zsh completion for drover; made by 'drover completion zsh'\n\n", out);
        shell_tables(out);
        fputs("_drover_answer() {\n    local previous=$1 current=$2\n    shift 2\n", out);
        fputs(shell_walk, out);
        fputs(shell_answer, out);
        fputs("    echo \"$answer\"\n}\n\n"
              "_drover() {\n"
              "    local answer\n"
              "    answer=$(_drover_answer \"${words[CURRENT-1]}\" \"${words[CURRENT]}\" "
              "\"${(@)words[2,CURRENT-1]}\")\n"
              "    if [ \"$answer\" = file ]; then\n"
              "        _files\n"
              "    else\n"
              "        compadd -- ${=answer}\n"
              "    fi\n"
              "}\n\n"
              "if [ \"$funcstack[1]\" = _drover ]; then _drover \"$@\"; else compdef _drover drover; fi\n",
                out);
}

/* Text between single quotes, for fish. */
static void print_quoted(FILE *out, const char *text)
{
        fputc('\'', out);
        for (; *text; text++) {
                if (*text == '\'' || *text == '\\')
                        fputc('\\', out);
                fputc(*text, out);
        }
        fputc('\'', out);
}

static void fish_option(FILE *out, const char *command, const struct option_spec *option)
{
        fputs("complete -c drover", out);
        if (command)
                fprintf(out, " -n '__drover_in \"%s\"'", command);
        if (option->letter)
                fprintf(out, " -s %c", option->letter);
        fprintf(out, " -l %s", option->name);
        if (option->kind != VALUE_FLAG)
                fputs(option->kind == VALUE_FILE ? " -r -F" : " -x", out);
        if (option->names_of)
                fprintf(out, " -a '(drover names %s 2>/dev/null)'", option->names_of);
        if (option->kind == VALUE_CHOICE) {
                fputs(" -a '", out);
                print_choices(out, option->value);
                fputs("'", out);
        }
        fputs(" -d ", out);
        print_quoted(out, option->help);
        fputc('\n', out);
}

static void fish_group(FILE *out, const char *const *words, size_t n_words)
{
        fputs("complete -c drover -n '__drover_at \"", out);
        print_path(out, words, n_words);
        fputs("\"' -a '", out);
        print_next_words(out, words, n_words);
        fputs("'\n", out);
}

static void write_fish(FILE *out)
{
        fputs("# fish completion for drover; made by 'drover completion fish'\n\n"
              "function __drover_path\n"
              "    set -l valued (string split ' ' -- '",
                out);
        print_options_with_value(out);
        fputs("')\n"
              "    set -l words (commandline -opc)[2..-1]\n"
              "    set -l path\n"
              "    set -l skip 0\n"
              "    for word in $words\n"
              "        if test $skip = 1\n"
              "            set skip 0\n"
              "        else if string match -q -- '-*' $word\n"
              "            contains -- $word $valued; and set skip 1\n"
              "        else\n"
              "            set path $path $word\n"
              "        end\n"
              "    end\n"
              "    string join ' ' -- $path\n"
              "end\n\n"
              "function __drover_at\n"
              "    set -l path (__drover_path)\n"
              "    test \"$path\" = \"$argv[1]\"\n"
              "end\n\n"
              "function __drover_in\n"
              "    set -l path (__drover_path)\n"
              "    string match -q -- \"$argv[1] *\" \"$path \"\n"
              "end\n\n"
              "complete -c drover -f\n",
                out);
        for_each_group(out, fish_group);
        for (const struct option_spec *o = global_options; o->name; o++)
                fish_option(out, NULL, o);
        for (size_t i = 0; i < n_command_table; i++) {
                const struct command *c = &command_table[i];

                if (c->hidden)
                        continue;
                if (c->operands[0].names_of)
                        fprintf(out,
                                "complete -c drover -n '__drover_at \"%s\"' -a '(drover names %s "
                                "2>/dev/null)'\n",
                                c->words, c->operands[0].names_of);
                for (const struct option_spec *o = c->options; o && o->name; o++)
                        fish_option(out, c->words, o);
        }
        fputs("complete -c drover -n '__drover_at completion' -a 'bash zsh fish'\n", out);
}

bool completion_write(FILE *out, const char *shell)
{
        if (!strcmp(shell, "bash"))
                write_bash(out);
        else if (!strcmp(shell, "zsh"))
                write_zsh(out);
        else if (!strcmp(shell, "fish"))
                write_fish(out);
        else
                return false;
        return true;
}
