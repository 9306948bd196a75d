dnl pynode_erlang.m4 - the OTP whose erl_interface and epmd are used.

dnl PYNODE_ERLANG_PROG(VARIABLE, PROGRAM): in the OTP's bin, its erts' bin, or on PATH.
AC_DEFUN([PYNODE_ERLANG_PROG],
[AC_PATH_PROG([$1], [$2], [],
  [$ERLANG_ROOT/bin$PATH_SEPARATOR$ERLANG_ROOT/erts-$pynode_erts/bin$PATH_SEPARATOR$PATH])
AS_IF([test -z "$$1"], [AC_MSG_ERROR([the Erlang/OTP in $ERLANG_ROOT has no $2])])])

dnl PYNODE_CHECK_ERLANG: sets and substitutes ERL, ERLC, ESCRIPT, EPMD, EI_CPPFLAGS, EI_LIBS;
dnl defines PYNODE_EPMD, the path of epmd.
AC_DEFUN([PYNODE_CHECK_ERLANG],
[AC_ARG_WITH([erlang],
  [AS_HELP_STRING([--with-erlang=ROOT],
    [Erlang/OTP 25 or later: the directory that has lib/erl_interface-* and erts-* (default: that of erl on PATH)])],
  [], [with_erlang=])
AS_CASE([$with_erlang],
  [no], [AC_MSG_ERROR([pynode cannot be built without Erlang/OTP's erl_interface])],
  [yes|''], [AC_PATH_PROG([ERL], [erl])],
  [AC_PATH_PROG([ERL], [erl], [], [$with_erlang/bin])])
AS_IF([test -z "$ERL"],
  [AC_MSG_ERROR([no erl to be found${with_erlang:+ in $with_erlang/bin}: install Erlang/OTP (on Debian: erlang-base erlang-dev) or name it by --with-erlang=ROOT])])

dnl erl will not start without HOME, not even to answer this.
AC_MSG_CHECKING([for the Erlang/OTP])
pynode_erlang=`HOME=${HOME:-/} "$ERL" -noshell -noinput -eval '
  Interface = case code:lib_dir(erl_interface) of {error, _} -> ""; Dir -> Dir end,
  io:format("~s ~s ~s ~s", [[code:root_dir(), erlang:system_info(otp_release),
                             erlang:system_info(version), Interface]]), halt().' 2>&AS_MESSAGE_LOG_FD`
set x $pynode_erlang
ERLANG_ROOT=$[2] ERLANG_OTP_RELEASE=$[3] pynode_erts=$[4] pynode_ei=$[5]
AS_IF([test -z "$pynode_erts"],
  [AC_MSG_RESULT([none])
   AC_MSG_ERROR([$ERL does not run; config.log has its words])])
AC_MSG_RESULT([$ERLANG_ROOT (OTP $ERLANG_OTP_RELEASE)])
AS_IF([test "$ERLANG_OTP_RELEASE" -lt 25],
  [AC_MSG_ERROR([$ERL is OTP $ERLANG_OTP_RELEASE; pynode wants 25 or later (--with-erlang=ROOT)])])
PYNODE_ERLANG_PROG([ERLC], [erlc])
PYNODE_ERLANG_PROG([ESCRIPT], [escript])
PYNODE_ERLANG_PROG([EPMD], [epmd])

dnl A distribution may keep ei.h and libei.a in the system's own directories instead.
AC_MSG_CHECKING([for erl_interface])
AS_IF([test ! -f "$pynode_ei/lib/libei.a"],
  [for pynode_ei in "$ERLANG_ROOT"/lib/erl_interface-* "$ERLANG_ROOT/usr" /usr; do
     test -f "$pynode_ei/lib/libei.a" && break
   done])
EI_CPPFLAGS= EI_LIBS=-lei
AS_IF([test "x$pynode_ei" != x/usr],
  [EI_CPPFLAGS="-I$pynode_ei/include" EI_LIBS="-L$pynode_ei/lib -lei"])
pynode_save_CPPFLAGS=$CPPFLAGS
pynode_save_LIBS=$LIBS
CPPFLAGS="$CPPFLAGS $EI_CPPFLAGS"
LIBS="$EI_LIBS -pthread $LIBS"
AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <ei.h>]], [[return ei_init();]])],
  [AC_MSG_RESULT([$pynode_ei])],
  [AC_MSG_RESULT([no])
   AC_MSG_ERROR([ei.h or libei.a is missing for OTP $ERLANG_OTP_RELEASE in $ERLANG_ROOT (on Debian: erlang-dev); config.log has the compiler's words])])
CPPFLAGS=$pynode_save_CPPFLAGS
LIBS=$pynode_save_LIBS

AC_SUBST([ERLANG_ROOT])
AC_SUBST([EI_CPPFLAGS])
AC_SUBST([EI_LIBS])
AC_DEFINE_UNQUOTED([PYNODE_ERLANG], ["$ERLANG_OTP_RELEASE"], [The OTP release whose erl_interface is used.])
AC_DEFINE_UNQUOTED([PYNODE_EPMD], ["$EPMD"], [The epmd to start when none runs.])
])
