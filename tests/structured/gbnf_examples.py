"""Grammars in GBNF like the examples of llama.cpp, with texts that each derives and texts that it does not."""

SUMS = r"""
root   ::= (sum "=" blank product "\n")+
sum    ::= product ([-+*/] product)*
product ::= name | count | "(" blank sum blank ")" blank
name   ::= [a-z] [a-z0-9_]* blank
count  ::= [0-9]+ blank
blank  ::= [ \t\n]*
"""
BULLETS = r"""
root  ::= point+
point ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"
"""
NESTED_BULLETS = r"""
root  ::= point+
point ::= "- " line ("  " point)*
line  ::= [^\n]+ "\n"
"""
JSON = r"""
root   ::= object
value  ::= object | array | text | number | ("true" | "false" | "null") blank
object ::= "{" blank (text ":" blank value ("," blank text ":" blank value)*)? "}" blank
array  ::= "[" blank (value ("," blank value)*)? "]" blank
text   ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" blank
number ::= "-"? (0 | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? blank
0      ::= "0"
blank  ::= | " " | "\n" [ \t]{0,20}
"""
JSON_ANY_BLANKS = JSON.replace(r'blank  ::= | " " | "\n" [ \t]{0,20}', r"blank ::= ([ \t\n] blank)?")
JSON_ENDS_IN_LINE = JSON_ANY_BLANKS.replace("root   ::= object", r'root ::= (object "\n")+')
CHESS = r"""
# a game, move by move
root ::= (
    "1. " move " " move "\n"   # the first one
    ([1-9] [0-9]? ". " move " " move "\n")+
)
move    ::= (pawn | piece | castle) [+#]?
piece   ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""
C_SUBSET = r"""
root ::= (declaration)*
declaration ::= type identifier "(" parameter? ")" "{" statement* "}"
type ::= ("int" | "float" | "char") ws
identifier ::= [a-zA-Z_] [a-zA-Z_0-9]*
parameter ::= type identifier
statement ::= (
    type identifier ws "=" ws expression ";" |
    identifier ws "=" ws expression ";" |
    identifier ws "(" arguments? ")" ";" |
    "return" ws expression ";" |
    "while" "(" condition ")" "{" statement* "}" |
    "for" "(" assignment ";" ws condition ";" ws assignment ")" "{" statement* "}" |
    "if" "(" condition ")" "{" statement* "}" ("else" "{" statement* "}")? |
    line-comment |
    block-comment )
assignment ::= type? identifier ws "=" ws expression
condition ::= expression relation expression
relation ::= ("<=" | "<" | "==" | "!=" | ">=" | ">")
expression ::= term (("+" | "-") term)*
term ::= factor (("*" | "/") factor)*
factor ::= identifier | number | minus | call | "(" expression ")"
minus ::= "-" factor
call ::= identifier "(" arguments? ")"
arguments ::= expression ("," ws expression)*
number ::= [0-9]+
line-comment ::= "//" [^\n]* "\n"
block-comment ::= "/*" ( [^*] | ("*" [^/]) )* "*/"
ws ::= ([ \t\n]+)
"""
PALINDROME = 'root ::= "a" root "a" | "b" root "b" | [ab]?'
WORDS_IN_BRACKETS = 'root ::= "(" root ")" | word "s"   word ::= [a-z]+'

# grammar → (texts of it, texts that are none)
EXAMPLES = {
    "sums": (
        SUMS,
        ["1+2=3\n", "x1 +( y\n*20 ) = z\n", "a=b\n\n", "1=2\n\t\n3 = (4)\n", "((a ) )= 1 \n \n"],
        ["1+2=3", "1+=2\n", "=1\n", "(1=1\n", "", "A=1\n"],
    ),
    "bullets": (BULLETS, ["- a\n", "- one\n- two, ä\n"], ["", "- a", "- \n", "- a\n\n", "* a\n"]),
    "nested bullets": (
        NESTED_BULLETS,
        ["- a\n", "- a\n  - b\n  - c\n", "- a\n  - b\n- c\n", "- - x\n"],
        ["", "- a", "- a\n - b\n", "- a\n  -b\n"],
    ),
    "json": (
        JSON,
        ["{}", '{"a": [1, "é\\n", {"b":null}]}', '{\n  "a": -0.5e-3\n}', '{"a":{}} ', '{"":10}\n'],
        ["", "[1]", '{"a"  : 1}', '{"a":01}', '{"a":}', '{"a":"\t"}', '{"a":1', "{}  "],
    ),
    "json with any blanks": (
        JSON_ANY_BLANKS,
        ["{}", '{ \n"a":\t[ ] , "b":\n\n{ }}\n\n', '{"a": 1 }  '],
        ["", " {}", "{}{}", '{"a": 1 ,}'],
    ),
    "json and a line end": (JSON_ENDS_IN_LINE, ["{}\n", "{} \n\n", '{"a": 1}\n{"b":2}\n'], ["{}", "{} ", "", "{}{}"]),
    "chess": (
        CHESS,
        ["1. e4 e5\n2. Nf3 Nc6\n", "1. d4 exd5\n2. O-O O-O-O+\n17. Rad1 a8=Q#\n", "1. e4 e5\n9. Nb1xd2 Qh4\n"],
        ["1. e4 e5\n", "1. e4 e5\n2. Nf3 Nc6", "2. e4 e5\n", "1. e9 e5\n2. e4 e5\n", "1. e4\n2. e4 e5\n"],
    ),
    "c": (
        C_SUBSET,
        [
            "",
            "int main(){return 0;}",
            "int f(int n){int whilex = f(n-1)*2+1;if(n<=1){return 1;}else{// no\n}}",
            "float g(){for(int i = 0; i<10; i = i+1){x = (i+2)*3;}/* **a* */}",
            "char inty(){while(a==b){returned = 1;}print (a, b);}",
        ],
        ["int main()", "int main(){return 0}", "int main(){x = ;}", "main(){}", "int f(){/* }", "int f(){if(a){}}"],
    ),
    "palindromes": (PALINDROME, ["", "a", "abba", "ababa"], ["ab", "aab", "c"]),
    "words in brackets": (WORDS_IN_BRACKETS, ["cats", "ss", "((as))"], ["s", "cat", "(cats", ""]),
}
